//! The example of docs/services.md, built and run: a page whose code does not work is worse than none.
//!
//! `services/polls.rs` stands beside this file exactly as it would in `src/services/`. Its golden script is
//! `services/scripts/one_vote_each.script`; `UPDATE_GOLDENFILES=1 cargo test --test tidy new_service` records it anew.

// docs/services.md shows from here
use crate::services::polls::{Command, Polls, Query, Tally};
use crate::services::{Reply, Service};
use crate::types;

/// One node's service, and the log time of the next entry.
#[derive(Default)]
struct World {
    polls: Polls,
    at: types::Stamp,
}

impl goldenscript::Runner for World {
    type Command = goldenscript::Command;

    fn run(&mut self, line: &Self::Command, _: &goldenscript::Context) -> Result<String, Box<dyn std::error::Error>> {
        let mut args = line.consume_args();
        let mut word = || args.next_pos().map(|word| word.to_string()).ok_or("a word is missing");
        let command = match line.name.as_str() {
            "open" => Some(Command::Open { poll: word()?, ms: word()?.parse()? }),
            "vote" => Some(Command::Vote { poll: word()?, voter: word()?, choice: word()? }),
            "wait" => {
                self.at.at_ms += word()?.parse::<u64>()?;
                None
            }
            "restart" => {
                let mut bytes = Vec::new();
                self.polls.snapshot(&mut bytes)?;
                self.polls = Polls::default();
                self.polls.restore(&mut bytes.as_slice())?;
                return Ok(String::new());
            }
            "tally" => {
                let query = postcard::to_stdvec(&Query { poll: word()? })?;
                let Reply::Ok(bytes) = self.polls.query(self.at, &query) else { return Err("no tally".into()) };
                return Ok(format!("{:?}\n", postcard::from_bytes::<Tally>(&bytes)?));
            }
            other => return Err(format!("unknown command '{other}'").into()),
        };
        // What the registry does with an entry: first the time, then the command.
        self.at.index = self.at.index.next();
        self.polls.expire(self.at);
        let reply = command.map(|command| postcard::to_stdvec(&command).map(|bytes| self.polls.apply(self.at, &bytes)));
        Ok(match reply.transpose()? {
            Some(Reply::Ok(_)) => "done\n".to_string(),
            Some(Reply::Failed(why)) => format!("failed: {why}\n"),
            None => String::new(),
        })
    }
}

#[test]
fn scripts() {
    goldenscript::run(&mut World::default(), "tests/tidy/services/scripts/one_vote_each.script").unwrap();
}
// to here

#[test]
fn the_page_shows_this_code() {
    let read =
        |path: &str| std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let page = read("docs/services.md");
    let shown: Vec<&str> = page.split("```").skip(1).step_by(2).collect();
    let block = |first_line: &str| {
        let with_language =
            |block: &&&str| block.split_once('\n').is_some_and(|(_, code)| code.starts_with(first_line));
        let found = shown.iter().find(with_language).unwrap_or_else(|| panic!("no block begins with {first_line}"));
        found.split_once('\n').unwrap().1.to_string()
    };
    let runner = read("tests/tidy/new_service.rs");
    let runner = runner.split("// docs/services.md shows from here\n").nth(1).unwrap();
    let runner = runner.split("// to here\n").next().unwrap();
    for (first_line, real) in [
        ("//! Polls", read("tests/tidy/services/polls.rs").as_str()),
        ("# A second vote", read("tests/tidy/services/scripts/one_vote_each.script").as_str()),
        ("use crate::services::polls", runner),
    ] {
        assert_eq!(block(first_line).trim_end(), real.trim_end(), "the page and the code differ");
    }
    // The rows that the page's row joins.
    let registry = read("src/services/registry.rs");
    let rows: String =
        block("services! {").lines().filter(|line| !line.contains("olls")).collect::<Vec<_>>().join("\n");
    assert!(registry.contains(rows.trim_end()), "the page shows another registry:\n{rows}");
}
