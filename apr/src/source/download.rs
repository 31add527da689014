//! One file of the web onto the disk, whole and checked or not at all.
//!
//! Several connections fetch stretches of blocks; each block that arrived is written, then noted in a journal with its
//! hash. Behind them one reader goes over the blocks in order, reads them back from the disk, holds them against their
//! hashes and adds them to the SHA-256 of the file: a block that the disk lost is fetched again, alone. The same reader
//! makes an earlier run's blocks trustworthy, so going on after a crash is no other way than beginning. The file gets
//! its name only when everything is there, has the right hash and is on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use engine::error::quoted_path;
use engine::term::{self, Progress};
use engine::{Error, Kind, Result, limits};
use sha2::{Digest, Sha256 as Hasher};

use super::http::{Client, Failure, Next, Reply, patience, retried};
use super::journal::{self, BLOCK, Head};
use super::name::{Address, Commit, Sha256};

/// Connections at the same time.
const CONNECTIONS: usize = 4;
/// Blocks that one request asks for, at most.
const STRETCH: usize = 64;
/// Blocks that the disk may lose before it is not trusted any more.
const LOST_MAX: u32 = 16;
/// Room that is left on a disk.
const SPARE_BYTES: u64 = 64 << 20;
/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);

/// What is to be fetched.
pub struct Wanted {
    /// From where.
    pub address: Address,
    /// Its size, if somebody said it.
    pub bytes: Option<u64>,
    /// What it has to be.
    pub sha256: Option<Sha256>,
    /// What git calls it: of small files, the hub says this alone.
    pub git: Option<String>,
    /// The commit that it is of.
    pub commit: Option<Commit>,
}

/// What came.
#[derive(Debug)]
pub struct Got {
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub sha256: Sha256,
}

/// Fetches a file and calls it `target`. `partial` is the name of what is not finished, without its ending.
pub fn download(client: &Client, wanted: &Wanted, partial: &Path, target: &Path, quiet: bool) -> Result<Got> {
    let job =
        Job { client, wanted, part: partial.with_extension("part"), journal: partial.with_extension("journal"), quiet };
    let mut changed = 0;
    loop {
        let failure = match job.attempt() {
            Ok(got) => return job.settle(got, target),
            Err(Ended::Broken(error)) => {
                // Without a journal nothing can go on from it, and the disk may be full.
                if !job.journal.exists() {
                    job.discard();
                }
                return Err(error);
            }
            Err(Ended::Failed(failure)) => failure,
        };
        // Another file under the same address is another download, but not for ever.
        match failure.next {
            Next::Afresh if changed < limits::RETRIES_MAX => {
                changed += 1;
                job.warn(&format!("{}: {}; from the beginning", wanted.address, failure.why));
                job.discard();
            }
            Next::Again(_) | Next::Afresh => {
                let why = format!("{}; given up after {} tries", failure.why, limits::RETRIES_MAX + 1);
                return Err(Failure { why, ..failure }
                    .error(&wanted.address)
                    .hint("the same command goes on from what came"));
            }
            Next::GiveUp(_) => return Err(failure.error(&wanted.address)),
        }
    }
}

/// A download that did not end well.
enum Ended {
    /// By the network, which may be better next time.
    Failed(Failure),
    /// By this machine.
    Broken(Error),
}

impl From<Failure> for Ended {
    fn from(f: Failure) -> Ended {
        Ended::Failed(f)
    }
}

impl From<Error> for Ended {
    fn from(e: Error) -> Ended {
        Ended::Broken(e)
    }
}

struct Job<'a> {
    client: &'a Client,
    wanted: &'a Wanted,
    part: PathBuf,
    journal: PathBuf,
    quiet: bool,
}

/// A block of the file.
#[derive(Clone, Copy, PartialEq)]
enum Block {
    Missing,
    /// A connection is at it.
    Taken,
    Arrived(blake3::Hash),
}

/// What the connections and the reader share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    blocks: Vec<Block>,
    /// Bytes that are there, for the bar.
    arrived: u64,
    /// Failures since the last block that arrived.
    strikes: u32,
    /// Nobody asks the server before this.
    not_before: Instant,
    journal: File,
    /// Everything is there, or nothing more will come.
    over: bool,
    ended: Option<Ended>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0
    }

    fn end(&self, ended: Ended) {
        let mut s = self.lock();
        s.over = true;
        s.ended.get_or_insert(ended);
        self.changed.notify_all();
    }
}

impl Job<'_> {
    fn attempt(&self) -> std::result::Result<Got, Ended> {
        if self.wanted.bytes.is_some_and(|bytes| bytes <= BLOCK) {
            return self.whole(None);
        }
        let mut tried = 0;
        let reply = loop {
            match self.client.get(&self.wanted.address, Some((0, 0)), None) {
                Ok(reply) => break reply,
                Err(failure) => self.pause(failure, &mut tried)?,
            }
        };
        self.same_commit(&reply)?;
        let Some(range) = reply.range.filter(|_| reply.partial) else { return self.whole(Some(reply)) };
        if self.wanted.bytes.is_some_and(|bytes| bytes != range.of) {
            return Err(self.other_size(range.of).into());
        }
        let sha256 = self.wanted.sha256.as_ref().map(Sha256::to_string);
        self.in_parts(Head::new(range.of, reply.validator.clone(), sha256))
    }

    /// Waits before another try, or gives up.
    fn pause(&self, failure: Failure, tried: &mut u32) -> std::result::Result<(), Failure> {
        let Some(wait) = patience(&failure, *tried) else { return Err(failure) };
        *tried += 1;
        self.warn(&retried(&self.wanted.address, &failure, wait, *tried));
        thread::sleep(wait);
        Ok(())
    }

    fn warn(&self, text: &str) {
        term::warn_unless(self.quiet, text);
    }

    fn same_commit(&self, reply: &Reply) -> std::result::Result<(), Failure> {
        match (&self.wanted.commit, &reply.commit) {
            (Some(asked), Some(came)) if asked != came => {
                Err(Failure::lasting(Kind::Network, format!("the hub sends commit {came} instead of {asked}")))
            }
            _ => Ok(()),
        }
    }

    fn other_size(&self, bytes: u64) -> Failure {
        let said = self.wanted.bytes.unwrap_or_default();
        Failure::lasting(Kind::Network, format!("the server has {bytes} bytes where {said} were announced"))
    }

    // ---- a file in one piece: a small one, or of a server that knows no ranges

    fn whole(&self, first: Option<Reply>) -> std::result::Result<Got, Ended> {
        let mut tried = 0;
        let mut reply = first.map(Ok);
        loop {
            let got = match reply.take().unwrap_or_else(|| self.client.get(&self.wanted.address, None, None)) {
                Ok(reply) => self.stream(reply),
                Err(failure) => Err(failure.into()),
            };
            match got {
                Err(Ended::Failed(failure)) => self.pause(failure, &mut tried)?,
                ended => return ended,
            }
        }
    }

    fn stream(&self, mut reply: Reply) -> std::result::Result<Got, Ended> {
        self.same_commit(&reply)?;
        let wrong = |why: &str| Ended::Failed(Failure::lasting(Kind::Network, why));
        if reply.partial {
            return Err(wrong("the server sends a part where the whole was asked for"));
        }
        let total = match (self.wanted.bytes, reply.length) {
            (Some(said), Some(has)) if said != has => return Err(self.other_size(has).into()),
            (Some(n), _) | (None, Some(n)) => n,
            (None, None) => return Err(wrong("the server does not say how long the file is")),
        };
        self.room(total, 0)?;
        let mut file = self.open(true)?;
        let mut hasher = Hasher::new();
        let mut bar = Progress::new("downloading", self.quiet);
        let mut buffer = vec![0; 1 << 16];
        let mut done = 0;
        while done < total {
            // One byte more than announced is one too many.
            let n = reply.read(&mut buffer).map_err(|e| self.client.cut(&e, done))?;
            if n == 0 {
                return Err(Failure::passing(format!("the connection was cut after {done} of {total} bytes")).into());
            }
            done += n as u64;
            if done > total {
                break;
            }
            file.write_all(&buffer[..n]).map_err(|e| self.unwritten(&e))?;
            hasher.update(&buffer[..n]);
            bar.at(done, total);
        }
        if done > total || reply.read(&mut buffer).map_err(|e| self.client.cut(&e, done))? > 0 {
            return Err(wrong("the server sends more than it announced"));
        }
        file.sync_all().map_err(|e| self.unwritten(&e))?;
        Ok(Got { bytes: total, sha256: hex(hasher) })
    }

    // ---- a file in parts

    fn in_parts(&self, head: Head) -> std::result::Result<Got, Ended> {
        if head.bytes == 0 || head.bytes > limits::DOWNLOAD_BYTES_MAX {
            return Err(Failure::lasting(Kind::TooLarge, format!("{} bytes are no model", head.bytes)).into());
        }
        let known = self.resumed(&head);
        let kept = known.iter().flatten().count() as u64 * BLOCK;
        self.room(head.bytes, kept)?;
        let fresh = known.iter().all(Option::is_none);
        let part = self.open(fresh)?;
        part.set_len(head.bytes).map_err(|e| self.unwritten(&e))?;
        // Written anew, so that a torn last line does not spoil the next one.
        let mut text = head.line();
        for (i, hash) in known.iter().enumerate() {
            if let Some(hash) = hash {
                text += &journal::line(i, hash);
            }
        }
        let mut log = File::create(&self.journal).map_err(|e| self.unwritten(&e))?;
        log.write_all(text.as_bytes()).map_err(|e| self.unwritten(&e))?;
        let blocks = known.into_iter().map(|h| h.map_or(Block::Missing, Block::Arrived)).collect();
        let shared = Shared {
            state: Mutex::new(State {
                blocks,
                arrived: kept.min(head.bytes),
                strikes: 0,
                not_before: Instant::now(),
                journal: log,
                over: false,
                ended: None,
            }),
            changed: Condvar::new(),
        };
        thread::scope(|scope| {
            for _ in 0..CONNECTIONS.min(head.blocks()) {
                let started = thread::Builder::new().name("download".into()).spawn_scoped(scope, || {
                    self.connection(&head, &shared);
                });
                if let Err(e) = started {
                    let what = format!("cannot start a thread: {e}");
                    shared.end(Error::new(Kind::TooLarge, what).into());
                }
            }
            let read = self.read_back(&head, &part, &shared);
            // The connections go home.
            let mut s = shared.lock();
            s.over = true;
            shared.changed.notify_all();
            drop(s);
            read
        })
    }

    /// The blocks of an earlier run, if they are of the same file.
    fn resumed(&self, head: &Head) -> Vec<Option<blake3::Hash>> {
        let none = vec![None; head.blocks()];
        // Seventy bytes a block, and the head.
        let most = head.blocks() as u64 * 100 + 4096;
        let mut text = Vec::new();
        let read = File::open(&self.journal).and_then(|f| f.take(most).read_to_end(&mut text));
        let Some((earlier, blocks)) = read.ok().and_then(|_| journal::parse(&text)) else { return none };
        let there = fs::metadata(&self.part).is_ok_and(|m| m.len() == head.bytes);
        match there && earlier == *head && head.is_certain() {
            true => blocks,
            false => none,
        }
    }

    /// Fetches stretches until none is missing.
    fn connection(&self, head: &Head, shared: &Shared) {
        let mut file = match self.open(false) {
            Ok(file) => file,
            Err(e) => return shared.end(e.into()),
        };
        while let Some((first, count)) = take(head, shared) {
            let (mut at, fetched) = (first, self.stretch(head, shared, &mut file, first, count));
            let Err(ended) = fetched else { continue };
            let mut s = shared.lock();
            while at < first + count {
                if s.blocks[at] == Block::Taken {
                    s.blocks[at] = Block::Missing;
                }
                at += 1;
            }
            let failure = match ended {
                Ended::Failed(failure) if matches!(failure.next, Next::Again(_)) => failure,
                other => {
                    drop(s);
                    return shared.end(other);
                }
            };
            // Connections that fail together are one failure.
            if Instant::now() < s.not_before || s.over {
                shared.changed.notify_all();
                continue;
            }
            match patience(&failure, s.strikes) {
                Some(wait) => {
                    s.strikes += 1;
                    s.not_before = Instant::now() + wait;
                    let line = retried(&self.wanted.address, &failure, wait, s.strikes);
                    shared.changed.notify_all();
                    drop(s);
                    self.warn(&line);
                }
                None => {
                    drop(s);
                    return shared.end(failure.into());
                }
            }
        }
    }

    /// One request: its blocks are written and noted as they come.
    fn stretch(
        &self,
        head: &Head,
        shared: &Shared,
        file: &mut File,
        first: usize,
        count: usize,
    ) -> std::result::Result<(), Ended> {
        let from = first as u64 * BLOCK;
        let to = head.bytes.min((first + count) as u64 * BLOCK);
        let mut reply = self.client.get(&self.wanted.address, Some((from, to - 1)), head.validator.as_deref())?;
        self.same_commit(&reply)?;
        let afresh = |why: &str| Ended::Failed(Failure { next: Next::Afresh, ..Failure::passing(why) });
        if !reply.partial {
            return Err(afresh("the file is another than before"));
        }
        let came = reply.range.map(|r| (r.first, r.last, r.of));
        if came.is_some_and(|(_, _, of)| of != head.bytes) || reply.validator != head.validator {
            return Err(afresh("the file is another than before"));
        }
        let asked = to - from;
        if came != Some((from, to - 1, head.bytes)) || reply.length.is_some_and(|n| n != asked) {
            let why = format!("the server sends other bytes than {from} to {}", to - 1);
            return Err(Failure::lasting(Kind::Network, why).into());
        }
        let mut block = Vec::with_capacity(BLOCK as usize);
        for at in first..first + count {
            let start = at as u64 * BLOCK;
            let size = BLOCK.min(head.bytes - start);
            block.clear();
            let filled = self.fill(shared, &mut reply, &mut block, size, start - from, asked);
            if let Err(e) = filled {
                // What came of a block that is not whole counts for nothing.
                let mut s = shared.lock();
                s.arrived = s.arrived.saturating_sub(block.len() as u64);
                return Err(e);
            }
            if (block.len() as u64) < size {
                return Ok(());
            }
            let written = file.seek(SeekFrom::Start(start)).and_then(|_| file.write_all(&block));
            written.map_err(|e| self.unwritten(&e))?;
            let hash = blake3::hash(&block);
            let mut s = shared.lock();
            s.journal.write_all(journal::line(at, &hash).as_bytes()).map_err(|e| self.unwritten(&e))?;
            s.blocks[at] = Block::Arrived(hash);
            s.strikes = 0;
            shared.changed.notify_all();
        }
        Ok(())
    }

    /// Reads a block, in pieces so that the bar moves. It stays short when everything is over.
    fn fill(
        &self,
        shared: &Shared,
        reply: &mut Reply,
        block: &mut Vec<u8>,
        size: u64,
        before: u64,
        asked: u64,
    ) -> std::result::Result<(), Ended> {
        let mut piece = [0; 1 << 14];
        while (block.len() as u64) < size {
            let most = usize::try_from(size - block.len() as u64).map_or(piece.len(), |n| n.min(piece.len()));
            let came = before + block.len() as u64;
            let n = reply.read(&mut piece[..most]).map_err(|e| self.client.cut(&e, came))?;
            if n == 0 {
                return Err(Failure::passing(format!("the connection was cut after {came} of {asked} bytes")).into());
            }
            block.extend_from_slice(&piece[..n]);
            let mut s = shared.lock();
            s.arrived += n as u64;
            if s.over {
                break;
            }
        }
        Ok(())
    }

    /// Goes over the blocks in order, from the disk.
    fn read_back(&self, head: &Head, part: &File, shared: &Shared) -> std::result::Result<Got, Ended> {
        let mut file = part;
        let mut hasher = Hasher::new();
        let mut bar = Progress::new("downloading", self.quiet);
        let mut lost = 0;
        let mut block = Vec::with_capacity(BLOCK as usize);
        for at in 0..head.blocks() {
            loop {
                let hash = self.arrival(head, shared, at, &mut bar)?;
                let start = at as u64 * BLOCK;
                block.clear();
                let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.take(BLOCK).read_to_end(&mut block));
                read.map_err(|e| self.unwritten(&e))?;
                if blake3::hash(&block) == hash {
                    hasher.update(&block);
                    break;
                }
                lost += 1;
                if lost > LOST_MAX {
                    let what = format!("{} does not keep what is written", quoted_path(&self.part));
                    return Err(Error::new(Kind::Output, what).hint("check the disk").into());
                }
                let mut s = shared.lock();
                s.blocks[at] = Block::Missing;
                s.arrived = s.arrived.saturating_sub(block.len() as u64);
                shared.changed.notify_all();
            }
        }
        part.sync_all().map_err(|e| self.unwritten(&e))?;
        Ok(Got { bytes: head.bytes, sha256: hex(hasher) })
    }

    /// Waits for a block.
    fn arrival(
        &self,
        head: &Head,
        shared: &Shared,
        at: usize,
        bar: &mut Progress,
    ) -> std::result::Result<blake3::Hash, Ended> {
        let mut s = shared.lock();
        loop {
            if let Some(ended) = s.ended.take() {
                return Err(ended);
            }
            bar.at(s.arrived.min(head.bytes), head.bytes);
            if let Block::Arrived(hash) = s.blocks[at] {
                return Ok(hash);
            }
            s = shared.wait(s, TICK);
        }
    }

    // ---- on this machine

    fn open(&self, fresh: bool) -> Result<File> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(fresh).open(&self.part);
        opened.map_err(|e| self.unwritten(&e))
    }

    fn unwritten(&self, e: &std::io::Error) -> Error {
        let error = Error::new(Kind::Output, format!("cannot write {}: {e}", quoted_path(&self.part)));
        match e.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                error.hint("make room, or name another folder by APR_HOME; then give the same command again")
            }
            ErrorKind::FileTooLarge => error.hint("a limit (ulimit -f) or the file system allows no larger file"),
            _ => error,
        }
    }

    /// Refuses to begin what the disk cannot hold.
    fn room(&self, total: u64, kept: u64) -> Result<()> {
        let needed = total.saturating_sub(kept);
        match free_bytes(&self.part) {
            Some(free) if free < needed.saturating_add(SPARE_BYTES) => Err(Error::new(
                Kind::Output,
                format!("{needed} bytes are to come, and {free} are free where {} is", quoted_path(&self.part)),
            )
            .hint("make room, or name another folder by APR_HOME")),
            _ => Ok(()),
        }
    }

    fn discard(&self) {
        let _ = fs::remove_file(&self.part);
        let _ = fs::remove_file(&self.journal);
    }

    /// Holds what came against what was wanted, and gives it its name.
    fn settle(&self, got: Got, target: &Path) -> Result<Got> {
        //= F-INT-285 F-INT-288
        if let Some(wanted) = self.wanted.sha256.as_ref().filter(|w| **w != got.sha256) {
            self.discard();
            let what = format!("{}: its SHA-256 is {} and has to be {wanted}", self.wanted.address, got.sha256);
            return Err(Error::new(Kind::Malformed, what).hint("what came is thrown away"));
        }
        if let Some(wanted) = &self.wanted.git {
            let came = git_name(&self.part).map_err(|e| Error::from_io(&e, &self.part))?;
            if came != *wanted {
                self.discard();
                let what = format!("{}: git calls it {came} and not {wanted}", self.wanted.address);
                return Err(Error::new(Kind::Malformed, what).hint("what came is thrown away"));
            }
        }
        //= F-INT-289
        fs::rename(&self.part, target)
            .map_err(|e| Error::new(Kind::Output, format!("cannot write {}: {e}", quoted_path(target))))?;
        let _ = fs::remove_file(&self.journal);
        // A name is on the disk once its folder is. Not every system can do that.
        let _ = target.parent().map(|folder| File::open(folder).and_then(|f| f.sync_all()));
        Ok(got)
    }
}

/// Takes a stretch of missing blocks once the server may be asked again; nothing when there is nothing more to do.
fn take(head: &Head, shared: &Shared) -> Option<(usize, usize)> {
    // Every connection has something to do from the beginning.
    let most = head.blocks().div_ceil(CONNECTIONS).clamp(1, STRETCH);
    let mut s = shared.lock();
    loop {
        if s.over {
            return None;
        }
        let now = Instant::now();
        if now < s.not_before {
            let wait = s.not_before - now;
            s = shared.wait(s, wait);
            continue;
        }
        if let Some(first) = s.blocks.iter().position(|b| *b == Block::Missing) {
            let count = s.blocks[first..].iter().take(most).take_while(|b| **b == Block::Missing).count();
            s.blocks[first..first + count].fill(Block::Taken);
            return Some((first, count));
        }
        // One that is taken may be missing again.
        s = shared.wait(s, TICK);
    }
}

fn hex(hasher: Hasher) -> Sha256 {
    let digits: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Sha256::parse(&digits).expect("invariant: a SHA-256 has 64 digits")
}

/// SHA-256 of a file.
pub fn sha256_of(path: &Path) -> std::io::Result<Sha256> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(hasher)),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// What git calls the contents of a small file.
fn git_name(path: &Path) -> std::io::Result<String> {
    let bytes = fs::read(path)?;
    let mut hasher = sha1::Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(&bytes);
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Bytes that a user may still write where this file is or will be.
#[cfg(unix)]
fn free_bytes(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path.parent()?).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

/// Not known before it is tried: there, room is taken when the file gets its length.
#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}
