//! Expensive requests in quick succession: a request that must wait has changed nothing, on every node.
//!
//! Not here: the bucket itself (`budget/token_bucket.rs`), waiting at the endpoint (`node/sql/load_permit.rs`).

use super::script_runner::{Node, answer, outcome_text, request};
use crate::services::sql::commands::Params;
use crate::services::sql::{Answer, Command, Outcome, Run, RunKind, Statement};

/// Uses more than half of the budget.
const MUCH: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 70000) INSERT INTO t SELECT max(x) FROM c";
/// Uses more than a request may when the bucket is low.
const SOME: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 20000) INSERT INTO t SELECT max(x) FROM c";

fn run(sql: &[&str], is_transaction: bool) -> Command {
    Command::Run(Run { is_transaction, ..request(sql, RunKind::Execute, 1) })
}

fn node() -> Node {
    let mut node = Node::default();
    node.execute(&["CREATE TABLE t (n)"]);
    node
}

fn count(node: &Node) -> String {
    outcome_text(&node.read("SELECT count(*) FROM t"))
}

/// Returns all replies. Checks that a restart from the log alone and a crash make no difference.
fn entry(node: &mut Node, at_ms: u64, commands: &[Command]) -> Vec<Answer> {
    let answers = node.entry(at_ms, commands).into_iter().map(answer).collect();
    let before = node.registry.digests();
    node.start_from(None);
    assert_eq!(node.registry.digests(), before, "from the log");
    node.crash();
    assert_eq!(node.registry.digests(), before, "after a crash");
    answers
}

fn is_done(answer: &Answer) -> bool {
    matches!(answer, Answer::Results(all) if all.iter().all(|one| matches!(one, Outcome::Changed { .. })))
}

#[test]
fn of_two_that_do_much_the_second_waits_and_has_done_nothing() {
    for is_transaction in [false, true] {
        let mut node = node();
        let much = run(&["INSERT INTO t VALUES(1)", MUCH], is_transaction);
        let answers = entry(&mut node, 10_000, &[much.clone(), much.clone(), run(&["INSERT INTO t VALUES(2)"], false)]);
        assert!(is_done(&answers[0]), "{answers:?}");
        let Answer::Busy { after_ms } = answers[1] else { panic!("{answers:?}") };
        assert!(is_done(&answers[2]), "a cheap request does not wait: {answers:?}");
        assert_eq!(count(&node), "[count(*):integer]\n  3");
        let answers = entry(&mut node, 10_001, std::slice::from_ref(&much));
        assert!(matches!(answers[0], Answer::Busy { .. }), "{answers:?}");
        let answers = entry(&mut node, 10_001 + after_ms + 60, &[much]);
        assert!(is_done(&answers[0]), "{answers:?}");
        assert_eq!(count(&node), "[count(*):integer]\n  5");
    }
}

/// Eight clients, each of which sends one request after another: some succeed in each second of log time, and all in
/// the end.
#[test]
fn all_that_do_much_get_through_one_by_one() {
    let mut node = node();
    let (mut open, mut now_ms, mut waits) = (vec![0_u64; 8], 10_000, 0);
    while !open.is_empty() {
        now_ms += 20;
        assert!(now_ms < 20_000, "{open:?}");
        let due: Vec<usize> = (0..open.len()).filter(|at| open[*at] <= now_ms).collect();
        let commands: Vec<Command> = due.iter().map(|_| run(&[MUCH], false)).collect();
        if commands.is_empty() {
            continue;
        }
        let answers: Vec<Answer> = node.entry(now_ms, &commands).into_iter().map(answer).collect();
        for (at, answer) in due.into_iter().zip(answers).rev() {
            match answer {
                Answer::Busy { after_ms } => {
                    open[at] = now_ms + after_ms;
                    waits += 1;
                }
                answer => {
                    assert!(is_done(&answer), "{answer:?}");
                    open.remove(at);
                }
            }
        }
    }
    assert!((7..=100).contains(&waits), "{waits}");
    assert_eq!(count(&node), "[count(*):integer]\n  8");
}

/// A dump and a full-text table: an interrupted statement rolls back the whole entry, and the commands before it run
/// again.
#[test]
fn commands_before_a_postponed_one_run_once() {
    let mut node = node();
    node.execute(&["CREATE VIRTUAL TABLE f USING fts5(a)"]);
    let text = Command::Load { sql: format!("BEGIN; INSERT INTO t VALUES(7); {SOME}; COMMIT"), seed: 1 };
    let bound = Statement {
        sql: "INSERT INTO f VALUES(?)".into(),
        params: Params::Positional(vec![crate::services::sql::Value::Text("x y".to_string())]),
    };
    let bound = Command::Run(Run { statements: vec![bound], ..request(&[], RunKind::Execute, 1) });
    let commands = [
        run(&[MUCH], false),
        bound,
        run(&["INSERT INTO t VALUES(1)"], false),
        text,
        run(&[SOME, SOME], true),
        run(&["INSERT INTO t VALUES(2)"], false),
    ];
    let answers = entry(&mut node, 10_000, &commands);
    let kinds: Vec<&str> = answers
        .iter()
        .map(|answer| match answer {
            Answer::Busy { .. } => "busy",
            answer if is_done(answer) => "done",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["done", "done", "done", "busy", "busy", "done"]);
    assert_eq!(count(&node), "[count(*):integer]\n  3");
}
