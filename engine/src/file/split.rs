//! A model in several files, `m-00001-of-00003.gguf` and so on: finding the others beside one of them.
//!
//! Containers say in their metadata which part a file is (`split.no`, `split.count`); this gathers them, whichever of
//! them was opened. Nothing in a file can lead to another folder: only the number in the file's own name changes.

use std::path::{Path, PathBuf};

use compute::Bytes;

use super::{Checked, Metadata, at_most};
use crate::error::{Error, Place, Result, quoted};
use crate::limits;

/// What a part of a split model says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// This part, from 0.
    pub no: u64,
    /// How many parts there are, at least 2.
    pub count: u64,
    /// Tensors in all parts, where the part says so.
    pub tensors: Option<u64>,
}

/// A kind of file that may be split: what its names end in, and how one part is read.
pub struct Parts {
    /// `gguf`.
    pub extension: &'static str,
    /// Reads one file by itself.
    pub parse: fn(Bytes) -> Result<Checked>,
}

impl Split {
    /// `None` for a model in one file.
    pub fn of(metadata: &Metadata) -> Result<Option<Split>> {
        let count = match metadata.unsigned("split.count")? {
            None | Some(1) => return Ok(None),
            Some(n) => n,
        };
        let place = || Place::Key("split.count".into());
        at_most(count, limits::SHARDS_MAX, "files of one model", place())?;
        let no = metadata.need_unsigned("split.no")?;
        if no >= count {
            return Err(
                Error::malformed(format!("part {no}, counted from 0, of {count}")).at(Place::Key("split.no".into()))
            );
        }
        Ok(Some(Split { no, count, tensors: metadata.unsigned("split.tensors.count")? }))
    }

    /// How a file of part `no` ends its name, counted from 1: `-00001-of-00003.gguf`.
    fn suffix(self, no: u64, extension: &str) -> String {
        format!("-{:05}-of-{:05}.{extension}", no + 1, self.count)
    }

    /// The file of part `no` beside `path`, which is the file of this part.
    fn sibling(self, path: &Path, no: u64, extension: &str) -> Option<PathBuf> {
        let name = path.file_name()?.to_str()?;
        let stem = name.strip_suffix(&self.suffix(self.no, extension))?;
        Some(path.with_file_name(format!("{stem}{}", self.suffix(no, extension))))
    }
}

impl Parts {
    /// The whole model, if `opened` is a part of one. The metadata of the first part is the model's.
    pub fn gathered(&self, path: &Path, opened: Checked) -> Result<Checked> {
        match Split::of(&opened.metadata)? {
            None => Ok(opened),
            Some(split) => self.gather(path, opened, split),
        }
    }

    fn gather(&self, path: &Path, opened: Checked, split: Split) -> Result<Checked> {
        let first = split.suffix(0, self.extension);
        let hint = format!("the model is split; open the file that ends in {first}, with the others beside it");
        let mut opened = Some(opened);
        let mut model: Option<Checked> = None;
        for no in 0..split.count {
            let part = match opened.take_if(|_| no == split.no) {
                Some(part) => part,
                None => {
                    let sibling = split.sibling(path, no, self.extension).ok_or_else(|| {
                        let what =
                            format!("this is part {} of {}, but its name does not say so", split.no + 1, split.count);
                        Error::malformed(what).at(Place::Key("split.count".into())).hint(hint.clone())
                    })?;
                    self.part(&sibling, no, split).map_err(|e| if e.hint.is_none() { e.hint(&hint) } else { e })?
                }
            };
            match &mut model {
                None => model = Some(part),
                Some(model) => merge(model, part)?,
            }
        }
        // A split has at least two parts, so there is a model.
        let model = model.ok_or_else(|| Error::malformed("a model of no parts"))?;
        if let Some(tensors) = split.tensors
            && tensors != model.tensors.len() as u64
        {
            let what =
                format!("{tensors} tensors announced, but the {} parts have {}", split.count, model.tensors.len());
            return Err(Error::malformed(what).at(Place::Key("split.tensors.count".into())));
        }
        Ok(model)
    }

    fn part(&self, path: &Path, no: u64, of: Split) -> Result<Checked> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let part = super::map(path).and_then(self.parse).map_err(|e| e.in_file(path))?;
        let found = Split::of(&part.metadata).map_err(|e| e.in_file(path))?;
        let agrees = found.is_some_and(|found| {
            (found.no, found.count) == (no, of.count)
                && found.tensors.zip(of.tensors).is_none_or(|(theirs, ours)| theirs == ours)
        });
        if !agrees {
            let what = format!("{} is not part {} of {} of the same model", quoted(&name), no + 1, of.count);
            return Err(Error::malformed(what).at(Place::Key("split.no".into())).in_file(path));
        }
        Ok(part)
    }
}

fn merge(model: &mut Checked, part: Checked) -> Result<()> {
    model.file_bytes = model.file_bytes.saturating_add(part.file_bytes);
    for (name, tensor) in part.tensors {
        if model.tensors.contains_key(&name) {
            return Err(Error::malformed("two parts of the model have it").at(Place::Tensor(name)));
        }
        model.tensors.insert(name, tensor);
    }
    at_most(model.tensors.len() as u64, limits::TENSORS_MAX, "tensors", Place::Key("split.count".into()))
}
