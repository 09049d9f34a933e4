//! One run as a page that stands alone: a lane for each node, terms as colours, messages as arrows, faults and the
//! violation marked.
//!
//! The page shows a window of time and has a bounded size: of too many messages, votes and snapshots come first and the
//! others are sampled. All text is escaped. Not here: what is recorded (`sim/recording.rs`).

mod lanes;

use self::lanes::{Lanes, escape, write_to};
use crate::sim::{Failure, Recording, TICK_US};

/// Ticks that the page shows unless the user says so.
const WINDOW_TICKS: u64 = 140;
/// Ticks that the page can show: more would make a picture that no browser draws.
pub const WINDOW_TICKS_MAX: u64 = 2_000;
/// Characters of a violation that the page shows.
const TEXT_MAX: usize = 600;

/// What the page is about.
pub struct Subject<'a> {
    pub seed: u64,
    /// The command that runs it again.
    pub command: String,
    pub failure: Option<&'a Failure>,
}

/// The ticks that a page shows: those that the user asked for, or the last ones before the violation.
pub fn window(asked: (Option<u64>, Option<u64>), recording: &Recording, failure: Option<&Failure>) -> (u64, u64) {
    let end = recording.end / TICK_US + 1;
    let to = asked.1.unwrap_or_else(|| match (asked.0, failure) {
        (Some(from), _) => from.saturating_add(WINDOW_TICKS),
        (None, Some(failure)) => failure.tick.saturating_add(3),
        (None, None) => WINDOW_TICKS,
    });
    let to = to.clamp(1, end + 3);
    let from = asked.0.unwrap_or(to.saturating_sub(WINDOW_TICKS)).min(to - 1);
    (from.max(to.saturating_sub(WINDOW_TICKS_MAX)), to)
}

/// The page.
pub fn page(subject: &Subject, recording: &Recording, window: (u64, u64)) -> String {
    let lanes = Lanes::new(recording, window);
    let mut out = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n");
    write_to(&mut out, format_args!("<title>phalanx sim: seed {}</title>\n<style>\n", subject.seed));
    out += include_str!("style.css");
    out += "</style></head><body>\n";
    write_to(&mut out, format_args!("<h1>phalanx sim: seed {}</h1>\n", subject.seed));
    match subject.failure {
        Some(failure) => {
            let what: String = failure.violation.what.chars().take(TEXT_MAX).collect();
            let (rule, what) = (escape(failure.violation.rule), escape(&what));
            write_to(&mut out, format_args!("<p class=\"bad\">{rule} broken at tick {}: {what}</p>\n", failure.tick));
        }
        None => out += "<p class=\"ok\">No rule was broken.</p>\n",
    }
    let (nodes, (from, to)) = (recording.nodes(), window);
    write_to(&mut out, format_args!("<p>{nodes} nodes, ticks {from} to {to} of 5 ms each. "));
    write_to(&mut out, format_args!("{} of {} messages are shown. ", lanes.shown(), lanes.messages()));
    write_to(&mut out, format_args!("Run it again: <code>{}</code></p>\n", escape(&subject.command)));
    out += "<div class=\"picture\">\n";
    lanes.draw(subject.failure, &mut out);
    out += "</div>\n";
    legend(&mut out);
    out += "</body></html>\n";
    out
}

/// Samples of all that the picture is made of.
fn legend(out: &mut String) {
    let bars = [
        ("leader", "<rect class=\"t\" style=\"--h:210\" y=\"1\" width=\"26\" height=\"14\" rx=\"3\"/>"),
        ("candidate", "<rect class=\"t candidate\" style=\"--h:210\" y=\"1\" width=\"26\" height=\"14\" rx=\"3\"/>"),
        ("follower", "<rect class=\"t follower\" style=\"--h:210\" y=\"5\" width=\"26\" height=\"7\" rx=\"3\"/>"),
        (
            "paused",
            "<rect class=\"t\" style=\"--h:210\" y=\"1\" width=\"26\" height=\"14\"/>\
             <rect class=\"paused\" y=\"1\" width=\"26\" height=\"14\"/>",
        ),
        ("down", "<line class=\"down\" x2=\"26\" y1=\"8\" y2=\"8\"/>"),
        ("vote or its answer", "<line class=\"m vote\" x2=\"26\" y1=\"8\" y2=\"8\"/>"),
        ("append with entries", "<line class=\"m append\" x2=\"26\" y1=\"8\" y2=\"8\"/>"),
        ("heartbeat, probe, answer, other", "<line class=\"m heartbeat\" x2=\"26\" y1=\"8\" y2=\"8\"/>"),
        ("snapshot", "<line class=\"m snapshot\" x2=\"26\" y1=\"8\" y2=\"8\"/>"),
        ("lost", "<line class=\"m vote lost\" x2=\"26\" y1=\"8\" y2=\"8\"/>"),
        ("fault", "<path class=\"mark\" d=\"M7 2h12l-6 11z\"/>"),
    ];
    *out += "<div class=\"legend\">\n";
    for (name, shape) in bars {
        write_to(out, format_args!("<span><svg width=\"26\" height=\"16\">{shape}</svg>{name}</span>\n"));
    }
    *out += "<span>Each term has its own colour.</span>\n</div>\n";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{self, Options, Violation};

    fn recorded(seed: u64) -> Recording {
        let options = Options { is_recorded: true, ..Options::default() };
        sim::run(seed, &options).expect("it passes").recording.expect("it was asked for")
    }

    #[test]
    fn a_page_is_escaped_and_bounded() {
        let recording = recorded(7);
        let violation = Violation { rule: "QuorumLog", what: "<script>alert(1)</script>".repeat(1_000) };
        let failure = Failure {
            seed: 7,
            tick: 200,
            violation,
            trace: Vec::new(),
            recording: None,
            replay_command: String::new(),
        };
        let subject = Subject { seed: 7, command: "phalanx sim replay '7'".into(), failure: Some(&failure) };
        let shown = window((None, None), &recording, Some(&failure));
        assert_eq!(shown, (63, 203));
        let text = page(&subject, &recording, shown);
        assert!(!text.contains("<script") && text.contains("&lt;script"), "not escaped");
        assert!(text.contains("class=\"broken\"") && text.contains("&#39;7&#39;"));
        let all = page(&subject, &recording, window((Some(0), Some(u64::MAX)), &recording, None));
        assert!(all.len() < 2_000_000, "{} bytes", all.len());
        for (open, close) in [("<svg", "</svg>"), ("<text", "</text>"), ("<g ", "</g>")] {
            assert_eq!(all.matches(open).count(), all.matches(close).count(), "{open}");
        }
    }

    #[test]
    fn a_recorded_run_is_the_same_run() {
        let hash = |is_recorded| sim::run(3, &Options { is_recorded, ..Options::default() }).expect("passes").hash;
        assert_eq!(hash(true), hash(false));
    }
}
