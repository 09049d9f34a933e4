//! `phalanx config show|validate`: what the settings are and where each value comes from.
//!
//! Secrets are masked. Faults are reported all at once, on stderr (with `validate --json` as data on stdout), and give
//! exit code 2. Not here: the rules of each key (`settings.rs`).

use crate::cli::fault::{Fault, code};
use crate::cli::term;
use crate::settings::{Fault as SettingsFault, Settings, Source};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Arguments of `phalanx config`.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

/// What to do with the settings.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Print each setting with its value and source
    Show {
        /// Settings file
        #[arg(long, value_name = "FILE")]
        settings: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Validate a settings file; all errors are reported at once
    Validate {
        /// Settings file
        #[arg(long, value_name = "FILE")]
        settings: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs it; the exit code.
pub fn run(args: ConfigArgs) -> u8 {
    let done = match args.command {
        ConfigCommand::Show { settings, json } => show(settings.as_deref(), &[], json),
        ConfigCommand::Validate { settings, json } => validate(settings.as_deref(), &[], json),
    };
    done.unwrap_or_else(|e| Fault::new(code::FAILED, format!("{e:#}"), "").report())
}

/// Prints each setting with its value and source. `sets`: keys and values as given on the command line.
///
/// # Errors
/// When a value cannot be printed; faults of the settings are reported here and give exit code 2.
pub fn show(settings_file: Option<&Path>, sets: &[(String, String)], json: bool) -> anyhow::Result<u8> {
    let (settings, sources) = match Settings::from_process(settings_file, sets) {
        Ok(loaded) => loaded,
        Err(faults) => return Ok(report(&faults)),
    };
    if json {
        let pairs = settings.shown().into_iter();
        let all: Map<String, Value> = pairs
            .map(|(key, value)| (key.into(), json!({"value": value, "source": sources.of(key).to_string()})))
            .collect();
        term::json(&all);
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = settings
        .shown()
        .into_iter()
        .map(|(key, value)| Ok(vec![key.to_string(), serde_json::to_string(&value)?, sources.of(key).to_string()]))
        .collect::<anyhow::Result<_>>()?;
    term::out(&term::table(&["SETTING", "VALUE", "SOURCE"], &rows));
    Ok(0)
}

/// Checks the settings; exit code 0 or 2. With `json` the result is one object on stdout.
///
/// # Errors
/// None at present; the signature is that of [`show`].
pub fn validate(settings_file: Option<&Path>, sets: &[(String, String)], json: bool) -> anyhow::Result<u8> {
    match Settings::from_process(settings_file, sets) {
        Ok((settings, sources)) => {
            let all = settings.shown().len();
            let chosen = settings.shown().iter().filter(|(key, _)| sources.of(key) != Source::Default).count();
            let warnings: Vec<String> = sources.exposed_secret().into_iter().chain(settings.short_secret()).collect();
            if json {
                term::json(&json!({"valid": true, "faults": [], "warnings": warnings}));
            } else {
                term::line(&format!("settings are valid: {chosen} of {all} set, the others at their defaults"));
                for warning in warnings {
                    eprintln!("{} {warning}", term::paint_err("warning:", term::Colour::Yellow));
                }
            }
            Ok(0)
        }
        Err(faults) if json => {
            let all: Vec<Value> = faults
                .iter()
                .map(|fault| {
                    json!({"source": fault.source_of.to_string(), "key": fault.key, "value": fault.value,
                           "why": fault.why, "allowed": fault.allowed})
                })
                .collect();
            term::json(&json!({"valid": false, "faults": all}));
            Ok(code::USAGE)
        }
        Err(faults) => Ok(report(&faults)),
    }
}

/// All faults at once, one line each, on stderr.
fn report(faults: &[SettingsFault]) -> u8 {
    let lines: Vec<String> = faults.iter().map(|fault| format!("  {fault}")).collect();
    let count =
        if faults.len() == 1 { "1 setting is wrong".into() } else { format!("{} settings are wrong", faults.len()) };
    let next = "correct them; `phalanx config show` prints the settings in use";
    Fault::new(code::USAGE, format!("{count}:\n{}", lines.join("\n")), next).report()
}
