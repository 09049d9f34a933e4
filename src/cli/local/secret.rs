//! `phalanx secret new`: prints a random value for `cluster_secret` or `client_password`.
//!
//! Small letters and digits only: such a text needs no quotes in shells, JSON, URLs and service files, does not look like
//! an option, and can be read aloud (without 0, 1, l and o).
//! Not here: which secrets are accepted (`settings/rules.rs`).

use crate::cli::fault::Fault;
use crate::cli::term;
use crate::settings::{RANDOM_ALPHABET, RANDOM_CHARS, is_random_secret};
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Arguments of `phalanx secret`.
#[derive(Clone, Debug, clap::Args)]
pub struct SecretArgs {
    #[command(subcommand)]
    command: SecretCommand,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum SecretCommand {
    /// Print a new random secret, for cluster_secret or client_password
    New,
}

pub fn run(args: &SecretArgs) -> Result<(), Fault> {
    let SecretCommand::New = args.command;
    let secret = draw();
    term::answer(args.json, &json!({"secret": secret}), || secret.clone());
    Ok(())
}

/// Two random UUIDs hold 244 bits that the system's generator has drawn; a hash spreads them evenly.
fn draw() -> String {
    loop {
        let drawn = [*Uuid::new_v4().as_bytes(), *Uuid::new_v4().as_bytes()].concat();
        let bytes = Sha256::digest(drawn).into_iter().take(RANDOM_CHARS);
        let secret: String = bytes.map(|byte| char::from(RANDOM_ALPHABET[usize::from(byte % 32)])).collect();
        // One in ten thousand has no digit, and would not be recognized as drawn.
        if is_random_secret(&secret) {
            return secret;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn secrets_differ_and_are_accepted() {
        let (one, other) = (draw(), draw());
        assert_ne!(one, other);
        assert!(is_random_secret(&one) && is_random_secret(&other), "{one} {other}");
        for key in ["PHALANX_CLUSTER_SECRET", "PHALANX_CLIENT_PASSWORD"] {
            Settings::load(None, [(key.to_string(), one.clone())], &[]).unwrap();
        }
        let used: std::collections::BTreeSet<char> =
            (0..100).flat_map(|_| draw().chars().collect::<Vec<_>>()).collect();
        assert_eq!(used.len(), RANDOM_ALPHABET.len(), "every character is drawn: {used:?}");
    }
}
