//! How long one request may hold the others up: statements of `hostile.corpus`, and what becomes of each.
//!
//! What is checked here follows from the content alone: which are refused for what they cost. How long they take is for people:
//! `cargo nextest run --release --lib how_long --run-ignored only --no-capture` prints it, the longest first.

use super::super::functions::RAN_AWAY;
use super::shell::{Node, in_words, request};
use crate::services::sql::{Digest, Kind, Outcome};
use std::time::{Duration, Instant};

const CORPUS: &str = include_str!("hostile.corpus");
const FIXTURES: &str = include_str!("hostile.fixtures");

fn lines(text: &'static str) -> impl Iterator<Item = (&'static str, String)> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let (word, sql) = line.split_once(' ').unwrap();
        let numbers = |end: &str| format!("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c{end})");
        let ends = [("@c", ""), ("@10k", " WHERE x < 10000"), ("@1k", " WHERE x < 1000"), ("@100", " WHERE x < 100")];
        let sql = ends.iter().fold(sql.to_string(), |sql, (mark, end)| sql.replace(mark, &numbers(end)));
        (word, sql)
    })
}

fn node() -> Node {
    let mut node = Node::default();
    for (times, sql) in lines(FIXTURES) {
        for _ in 0..times.parse::<u32>().unwrap() {
            let outcome = node.execute(&[&sql]).pop().unwrap();
            assert!(!matches!(outcome, Outcome::Failed(_)), "{sql}: {}", in_words(&outcome));
        }
    }
    node
}

/// What becomes of a statement, and how long it took with all that follows from it. Nothing of it stays.
fn attempt(node: &mut Node, sql: &str) -> (Outcome, Duration) {
    let mut run = request(&[sql, "SELECT this_undoes_it"], Kind::Execute, 1);
    run.is_transaction = true;
    let begun = Instant::now();
    let now_ms = 1_700_000_000_000 + 1_000 * node.log.len() as u64;
    let outcome = node.run(now_ms, run).swap_remove(0);
    (outcome, begun.elapsed())
}

fn verdict(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Failed(why) if why == RAN_AWAY => "refused",
        Outcome::Failed(_) => "fails",
        _ => "accepted",
    }
}

/// Every third of them.
fn check(third: usize) {
    let mut node = node();
    let content = |node: &Node| Digest { index: 0, ..node.registry.sql().digests(Default::default()) };
    let before = content(&node);
    for (wanted, sql) in lines(CORPUS).skip(third).step_by(3) {
        let (outcome, _) = attempt(&mut node, &sql);
        let found = verdict(&outcome);
        let is_fine = if wanted == "bounded" { found != "fails" } else { found == wanted };
        assert!(is_fine, "{sql} should be {wanted}: {}", in_words(&outcome));
    }
    assert_eq!(content(&node), before);
}

#[test]
fn what_costs_too_much_is_refused_first_third() {
    check(0);
}

#[test]
fn what_costs_too_much_is_refused_second_third() {
    check(1);
}

#[test]
fn what_costs_too_much_is_refused_last_third() {
    check(2);
}

#[test]
fn the_corpus_has_two_hundred_statements_at_least() {
    assert!(lines(CORPUS).count() >= 200);
}

/// A node that has come to the same content on another way refuses the same statements.
#[test]
fn the_past_of_a_node_changes_no_price() {
    let mut node = node();
    let image = node.registry.sql().image();
    let mut other = Node::default();
    other.log.clone_from(&node.log);
    other.tags = node.tags;
    other.start_from(Some(crate::services::sql::Database::survivor(&image)));
    for (_, sql) in lines(CORPUS).step_by(9) {
        let (ours, theirs) = (attempt(&mut node, &sql).0, attempt(&mut other, &sql).0);
        assert_eq!(verdict(&ours), verdict(&theirs), "{sql}");
    }
}

#[test]
#[ignore = "measures for minutes"]
fn how_long_each_statement_holds_the_others_up() {
    let mut node = node();
    let mut all: Vec<(Duration, &str, String)> = lines(CORPUS)
        .map(|(_, sql)| {
            let (outcome, took) = attempt(&mut node, &sql);
            (took, verdict(&outcome), sql)
        })
        .collect();
    all.sort_by_key(|(took, ..)| std::cmp::Reverse(*took));
    for (took, verdict, sql) in all {
        println!("{:8.1} ms {verdict:8} {sql:.120}", took.as_secs_f64() * 1e3);
    }
}
