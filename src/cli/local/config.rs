//! `phalanx config show|validate`: what the settings are and where each value comes from.
//!
//! Secrets are masked. Errors are reported all at once, on stderr (with `validate --json` as data on stdout), and give
//! exit code 2. Not here: the rules of each key (`settings.rs`).

use crate::cli::client::settings_fault;
use crate::cli::fault::{Fault, code};
use crate::cli::term;
use crate::settings::{Settings, Source};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Arguments of `phalanx config`.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
    /// Settings file [default: settings.json in the current directory, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
}

/// What to do with the settings.
#[derive(Clone, Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Print each setting with its value and source
    Show,
    /// Validate a settings file; all errors are reported at once
    Validate,
}

pub fn run(args: &ConfigArgs) -> Result<(), Fault> {
    let loaded = Settings::from_process(args.settings.as_deref(), &[]);
    match (&args.command, loaded) {
        (ConfigCommand::Validate, Err(faults)) if args.json => {
            let row = |fault: &crate::settings::SettingsError| {
                json!({"source": fault.source_of.to_string(), "key": fault.key, "value": fault.value,
                       "why": fault.why, "allowed": fault.allowed})
            };
            term::json(&json!({"valid": false, "faults": faults.iter().map(row).collect::<Vec<_>>()}));
            return Err(Fault::new(code::USAGE, "", ""));
        }
        (_, Err(faults)) => return Err(settings_fault(&faults)),
        (ConfigCommand::Show, Ok((settings, sources))) => {
            let shown = settings.shown().into_iter().map(|(key, value)| (key, value, sources.of(key).to_string()));
            if args.json {
                let all: Map<String, Value> =
                    shown.map(|(key, value, source)| (key.into(), json!({"value": value, "source": source}))).collect();
                term::json(&all);
            } else {
                let rows: Vec<Vec<String>> =
                    shown.map(|(key, value, source)| vec![key.to_string(), value.to_string(), source]).collect();
                term::out(&term::table(&["SETTING", "VALUE", "SOURCE"], &rows));
            }
        }
        (ConfigCommand::Validate, Ok((settings, sources))) => {
            let all = settings.shown();
            let set = all.iter().filter(|(key, _)| sources.of(key) != Source::Default).count();
            let warnings = sources.warnings(&settings);
            term::answer(args.json, &json!({"valid": true, "faults": [], "warnings": warnings}), || {
                format!("settings are valid: {set} of {} set, the others at their defaults", all.len())
            });
            for warning in warnings.iter().filter(|_| !args.json) {
                eprintln!("{} {warning}", term::paint_err("warning:", term::Colour::Yellow));
            }
        }
    }
    Ok(())
}
