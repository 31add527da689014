//! The config file: flags that one would type every time.
//!
//! A key is the long name of a flag, at the top for every command that has the flag, or in a table of a command's name
//! for that command alone. What is typed counts before the environment, the environment before the file, and the file
//! before what a model recommends and what is built in. So a value of the file becomes a flag, unless the flag or one
//! that conflicts with it was typed. A key that is no flag is refused: a setting that does nothing is a lie.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory};
use engine::error::{quoted, quoted_path};
use engine::{Error, Kind, Place, Result, knobs, limits, similar};

use crate::args::Args;

/// A checked file.
#[derive(Debug, Default)]
pub struct Config {
    /// Commands and their flags; the empty name is for all.
    tables: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

/// Commands that run no model: a config file that is broken must not keep anybody from looking at it.
const WITHOUT: &[&str] = &["completions", "man", "doctor", "config", "help"];

/// Flags that a file cannot set: they say what is to be done once, not how.
const TYPED_ONLY: &[&str] = &["help", "version"];

/// Flags that a variable sets too: it counts before the file.
const IN_ENVIRONMENT: &[(&str, &knobs::Knob)] = &[("api-key", &knobs::API_KEY)];

/// Where the file is, if there may be one: `APR_CONFIG`, or a place in the user's folder. An empty `APR_CONFIG` is none.
pub fn path() -> Option<PathBuf> {
    knobs::config_file()
}

/// The file, if there is one.
pub fn read() -> Result<Option<Config>> {
    let Some(path) = path() else { return Ok(None) };
    let place = |e: Error| Error { what: format!("{}: {}", quoted_path(&path), e.what), ..e };
    let file = match std::fs::File::open(&path) {
        Err(_) if !knobs::config_named() && !is_seen(&path) => return Ok(None),
        other => other.map_err(|e| Error::from_io(&e, &path).hint("APR_CONFIG= does without it"))?,
    };
    let mut bytes = Vec::new();
    let limit = limits::CONFIG_BYTES_MAX;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|e| Error::from_io(&e, &path))?;
    if bytes.len() > limit {
        return Err(place(Error::new(Kind::TooLarge, format!("a config file of more than {limit} bytes"))));
    }
    let text = String::from_utf8(bytes).map_err(|_| place(Error::malformed("the config file is not UTF-8")))?;
    Config::parse(&text).map(Some).map_err(place)
}

/// Whether there is something at all: nothing can be seen in a folder that may not be entered, as another user's.
fn is_seen(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

impl Config {
    /// From the text of a file.
    pub fn parse(text: &str) -> Result<Config> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            let what = e.message().lines().next().unwrap_or_default().to_string();
            Error::malformed(match line {
                Some(line) => format!("line {line}: {what}"),
                None => what,
            })
        })?;
        let mut command = Args::command();
        command.build();
        let mut config = Config::default();
        for (key, value) in table {
            match value {
                toml::Value::Table(inner) => {
                    let names = || commands(&command).map(Command::get_name);
                    let Some(of) = commands(&command).find(|c| c.get_name() == key) else {
                        return Err(unknown("command", &key, names()));
                    };
                    for (key, value) in inner {
                        let flag = flags(of).find(|a| a.get_long() == Some(&key));
                        let has = |c: &&Command| flags(c).any(|a| a.get_long() == Some(&key));
                        let flag = flag.ok_or_else(|| match commands(&command).find(has) {
                            Some(other) => {
                                let (of, other) = (of.get_name(), other.get_name());
                                let what = format!("{of} has no flag {}; {other} has", quoted(&key));
                                Error::new(Kind::Usage, what).at(Place::Key(key.clone()))
                            }
                            None => unknown("flag", &key, flags(of).filter_map(Arg::get_long)),
                        })?;
                        config.set(of.get_name(), &key, flag, value)?;
                    }
                }
                value => {
                    let all = || commands(&command).flat_map(flags);
                    let flag = all().find(|a| a.get_long() == Some(&key));
                    let flag = flag.ok_or_else(|| unknown("flag", &key, all().filter_map(Arg::get_long)))?;
                    config.set("", &key, flag, value)?;
                }
            }
        }
        Ok(config)
    }

    fn set(&mut self, of: &str, key: &str, flag: &Arg, value: toml::Value) -> Result<()> {
        let wrong = |what: &str| Error::new(Kind::Usage, what.to_string()).at(Place::Key(key.into()));
        let switch = matches!(flag.get_action(), ArgAction::SetTrue);
        let values = match value {
            toml::Value::Boolean(on) if switch => {
                if on {
                    vec!["true".to_string()]
                } else {
                    Vec::new()
                }
            }
            _ if switch => return Err(wrong("true or false is expected")),
            toml::Value::Array(list) if matches!(flag.get_action(), ArgAction::Append) => list
                .iter()
                .map(|v| plain(v).ok_or_else(|| wrong("a list of texts or numbers is expected")))
                .collect::<Result<_>>()?,
            value => vec![plain(&value).ok_or_else(|| wrong("a text or a number is expected"))?],
        };
        self.tables.entry(of.into()).or_default().insert(key.into(), values);
        Ok(())
    }

    /// How many values it has.
    pub fn len(&self) -> usize {
        self.tables.values().map(BTreeMap::len).sum()
    }

    /// The values for a command, those of its own table before those for all.
    fn of(&self, command: &Command) -> BTreeMap<&str, &[String]> {
        let table = |name: &str| self.tables.get(name).into_iter().flatten();
        let values = table("").chain(table(command.get_name()));
        let has = |key: &str| command.get_arguments().any(|a| a.get_long() == Some(key));
        values.filter(|(key, _)| has(key)).map(|(key, values)| (key.as_str(), values.as_slice())).collect()
    }

    /// Every value, with the command it is for.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str, &[String])> {
        self.tables.iter().flat_map(|(of, table)| {
            table.iter().map(move |(key, values)| (of.as_str(), key.as_str(), values.as_slice()))
        })
    }

    /// What was typed, with the flags that the file adds to it. `typed` is what clap made of it.
    pub fn added_to(&self, words: Vec<OsString>, typed: &ArgMatches) -> Vec<OsString> {
        let mut all = Args::command();
        all.build();
        let Some((name, matches)) = typed.subcommand() else { return words };
        let Some(command) = all.find_subcommand(name) else { return words };
        let given = |arg: &Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        let mut more = Vec::new();
        for (key, values) in self.of(command) {
            let Some(arg) = command.get_arguments().find(|a| a.get_long() == Some(key)) else { continue };
            let conflicts = || {
                // A conflict is declared on one side.
                let mine = command.get_arg_conflicts_with(arg);
                let theirs = command
                    .get_arguments()
                    .filter(|a| command.get_arg_conflicts_with(a).iter().any(|other| other.get_id() == arg.get_id()));
                mine.into_iter().chain(theirs).any(given)
            };
            let in_environment = IN_ENVIRONMENT.iter().any(|(flag, knob)| *flag == key && knobs::read(knob).is_some());
            if given(arg) || conflicts() || in_environment {
                continue;
            }
            let switch = matches!(arg.get_action(), ArgAction::SetTrue);
            more.extend(values.iter().map(|value| match switch {
                true => OsString::from(format!("--{key}")),
                false => OsString::from(format!("--{key}={value}")),
            }));
        }
        // Behind the name of the command, so that nothing typed after it is taken for something else.
        let at = words.iter().position(|w| w == name).map_or(words.len(), |at| at + 1);
        words[..at].iter().cloned().chain(more).chain(words[at..].iter().cloned()).collect()
    }
}

/// What was typed, and what the config file adds to it.
pub fn parse(words: Vec<OsString>) -> std::result::Result<Args, Refused> {
    let typed = Args::command().try_get_matches_from(&words).map_err(Refused::Typed)?;
    let parsed = |matches: &ArgMatches| <Args as clap::FromArgMatches>::from_arg_matches(matches);
    if typed.subcommand_name().is_none_or(|name| WITHOUT.contains(&name)) {
        return parsed(&typed).map_err(Refused::Typed);
    }
    let Some(config) = read().map_err(Refused::Config)? else { return parsed(&typed).map_err(Refused::Typed) };
    let both = Args::command().try_get_matches_from(config.added_to(words, &typed));
    both.and_then(|matches| parsed(&matches)).map_err(|e| {
        let path = path().unwrap_or_default();
        let text = e.render().to_string();
        let line = text.lines().next().unwrap_or_default();
        let what = format!("{}: {}", quoted_path(&path), line.strip_prefix("error: ").unwrap_or(line));
        Refused::Config(Error::new(Kind::Usage, what).hint("apr config show lists what the file sets"))
    })
}

/// Why a command line is none.
#[derive(Debug)]
pub enum Refused {
    /// Help, version, or something that cannot be.
    Typed(clap::Error),
    /// The config file.
    Config(Error),
}

fn commands(all: &Command) -> impl Iterator<Item = &Command> {
    all.get_subcommands().filter(|c| !WITHOUT.contains(&c.get_name()))
}

fn flags(of: &Command) -> impl Iterator<Item = &Arg> {
    of.get_arguments().filter(|a| a.get_long().is_some_and(|long| !TYPED_ONLY.contains(&long)))
}

fn unknown<'a>(what: &str, key: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let error = Error::new(Kind::Usage, format!("no {what} is called {}", quoted(key))).at(Place::Key(key.into()));
    match similar::nearest(key, known) {
        Some(near) => error.hint(format!("did you mean {}?", quoted(near))),
        None => error.hint("keys are the long names of flags, tables those of commands"),
    }
}

fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(s) => Some(s.clone()),
        toml::Value::Integer(n) => Some(n.to_string()),
        toml::Value::Float(x) => Some(x.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
