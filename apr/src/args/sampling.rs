//! Sampling flags, made from the engine's table of settings: a new setting is a flag by itself.

use clap::{Arg, ArgAction, ArgMatches, Command};
use engine::sample::settings::{Asked, Setting};
use engine::sample::{Sampling, Step};

/// What was asked for.
#[derive(Debug)]
pub struct SamplingArgs {
    /// Numbers, order, biases and seed.
    pub asked: Asked,
}

const HEADING: &str = "Sampling (without a flag: what the model recommends, or else the default)";

impl clap::Args for SamplingArgs {
    fn augment_args(mut command: Command) -> Command {
        let default = Sampling::default();
        for setting in Setting::ALL {
            let mut arg = Arg::new(setting.name)
                .long(setting.name)
                .value_name(if setting.step == 0.0 { "X" } else { "N" })
                .value_parser(move |text: &str| number(setting, text))
                .allow_negative_numbers(true)
                .help(format!("{} [default: {}]", setting.help, (setting.get)(&default)))
                .help_heading(HEADING);
            if setting.name == "temperature" {
                arg = arg.short('t'); //= F-CLI-012
            }
            command = command.arg(arg);
        }
        let text = |name: &'static str, value: &'static str, help: &str| {
            Arg::new(name).long(name).value_name(value).help(help.to_string()).help_heading(HEADING)
        };
        let steps: Vec<&str> = Step::ALL.iter().map(|s| s.0).collect();
        command.args([
            text(
                "dry-breaker",
                "TEXT",
                "A repetition does not run across this; may be given several times [default: newline : \" *]",
            )
            .action(ArgAction::Append),
            text("logit-bias", "ID=X", "Add X to the logit of a token; -inf forbids it; may be given several times")
                .value_parser(bias)
                .action(ArgAction::Append),
            text(
                "samplers",
                "LIST",
                &format!("Steps, in order; what is left out is not done [default: {}]", steps.join(";")),
            )
            .value_parser(|list: &str| Step::chain(list).map_err(|e| e.what)),
            text("seed", "N", "Seed of the random numbers [default: 0]").value_parser(super::whole::<u64>),
        ])
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for SamplingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SamplingArgs, clap::Error> {
        let value = |s: &'static Setting| matches.get_one::<f32>(s.name).map(|x| (s, *x));
        let many = |name: &str| matches.get_many::<String>(name).map(|texts| texts.cloned().collect());
        let asked = Asked {
            values: Setting::ALL.iter().filter_map(value).collect(),
            order: matches.get_one::<Vec<Step>>("samplers").cloned(),
            logit_bias: matches.get_many::<(u32, f32)>("logit-bias").map(|b| b.copied().collect()).unwrap_or_default(),
            dry_breakers: many("dry-breaker"),
            seed: matches.get_one("seed").copied().unwrap_or_default(),
        };
        Ok(SamplingArgs { asked })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A number that the setting can hold; whether it is in range is for the engine to say.
fn number(setting: &Setting, text: &str) -> Result<f32, String> {
    let x: f32 = text.parse().map_err(|_| "not a number")?;
    match setting.takes(x) || !x.is_finite() {
        true => Ok(x),
        false if setting.step == 1.0 => Err("not a whole number".into()),
        false => Err(format!("only {} and {} can be had", setting.range.0, setting.range.1)),
    }
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let (id, x) = text.split_once('=').ok_or("not of the form ID=X")?;
    let id = id.parse().map_err(|_| "the token's id is not a whole number")?;
    match x.parse::<f32>() {
        Ok(x) if x < f32::INFINITY => Ok((id, x)),
        _ => Err("the bias is neither a finite number nor -inf".into()),
    }
}
