//! The scenario of `phalanx demo chat`: five nodes, three users, two node failures, then the failure of all; and a
//! check of every inbox.
//!
//! It starts its own processes on free ports, reports each step in plain words, and verifies the result: every
//! acknowledged message is compared with each user's stream and with the history: in order and once.
//! Not here: printing and the exit code (`cli/lab/demo.rs`), what a client does when a node dies (`client/`).

use super::jobs::Account;
use crate::client::{Chat, ClientError, Follower, Recipient};
use crate::lab::cluster::Cluster;
use crate::lab::{LabError, Result};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const NODES: u64 = 5;
const PEOPLE: [&str; 3] = ["alice", "bob", "charlie"];
/// Longest wait for each step.
const PATIENCE: Duration = Duration::from_secs(60);
/// Messages of each person in each step.
const MESSAGES: usize = 4;

struct Person {
    name: &'static str,
    chat: Chat,
    stream: Follower,
    /// Messages from the stream.
    heard: Vec<Line>,
}

/// Conversation, number, text.
type Line = (u64, u64, String);

/// A message that was acknowledged.
struct SentLine {
    /// Who must receive it, the sender included.
    to: Vec<&'static str>,
    line: Line,
}

fn lab_error(fault: ClientError) -> LabError {
    LabError::Answer(fault.to_string())
}

/// Runs it; `print_line` gets each line as it happens.
///
/// # Errors
/// Processes do not start, or the cluster does not reach the state that a step needs.
pub fn play(exe: PathBuf, print_line: &mut dyn FnMut(&str)) -> Result<Account> {
    let mut cluster = Cluster::prepare(exe, &json!({"voters_max": NODES, "cluster_name": "demo chat"}))?;
    // Reset at the end if nothing is wrong.
    cluster.keep = true;
    print_line(&format!("1. {NODES} nodes start, in {}", cluster.dir().display()));
    for id in 1..=NODES {
        cluster.spawn(id, &[])?;
    }
    let leader = cluster.settle_as(NODES as usize)?;
    print_line(&format!("   They have elected node {leader}."));

    let mut people = sign_up(&cluster, print_line)?;
    let mut said: Vec<SentLine> = Vec::new();
    print_line("3. They send messages, to the room and to each other");
    talk(&mut people, "all nodes run", &mut said, print_line)?;

    print_line(&format!("4. kill -9 of the leader, node {leader}; they continue at once"));
    cluster.kill(leader)?;
    talk(&mut people, "one node is down", &mut said, print_line)?;
    let next = cluster.wait_other_leader(leader)?;
    print_line(&format!("   node {next} leads now"));

    print_line(&format!("5. kill -9 of the new leader, node {next}: three of five are left"));
    cluster.kill(next)?;
    talk(&mut people, "two nodes are down", &mut said, print_line)?;

    let mut faults = Vec::new();
    print_line("6. All inboxes: complete, in order, without duplicates?");
    check(&mut people, &said, &mut faults, print_line)?;

    print_line("7. kill -9 of all nodes that are left; then all five start again");
    cluster.kill_all();
    for id in 1..=NODES {
        cluster.restart(id)?;
    }
    cluster.settle_as(NODES as usize)?;
    talk(&mut people, "all nodes restarted", &mut said, print_line)?;
    print_line("8. All inboxes again");
    check(&mut people, &said, &mut faults, print_line)?;

    print_line("9. Stopping the nodes");
    drop(people);
    faults.extend(cluster.stop_orderly(PATIENCE)?);
    print_line("   all processes have stopped");
    cluster.keep = !faults.is_empty();
    Ok(Account { faults, folder: cluster.dir().to_path_buf() })
}

fn sign_up(cluster: &Cluster, print_line: &mut dyn FnMut(&str)) -> Result<Vec<Person>> {
    print_line("2. Three users create accounts, each on another node, and join the room #agora");
    let mut people = Vec::new();
    let mut room = None;
    for (place, name) in PEOPLE.into_iter().enumerate() {
        let mut chat = Chat::new(cluster.addresses());
        chat.client.within = Some(PATIENCE);
        chat.client.go_to(place);
        let account = chat.sign_up(name, &format!("{name}'s secret")).map_err(lab_error)?;
        let stream = chat.follow(Some(0));
        let id = match room {
            None => chat.post("rooms", &json!({"name": "agora"})).map_err(lab_error)?["conversation"].as_u64(),
            Some(id) => {
                chat.post(&format!("rooms/{id}/join"), &json!({})).map_err(lab_error)?;
                Some(id)
            }
        };
        room = room.or(id);
        print_line(&format!("   {name} is account {}, on {}", account["account"], chat.client.address()));
        people.push(Person { name, chat, stream, heard: Vec::new() });
    }
    Ok(people)
}

/// Each user in turn sends messages to the room and to the next user.
fn talk(people: &mut [Person], when: &str, said: &mut Vec<SentLine>, print_line: &mut dyn FnMut(&str)) -> Result<()> {
    let mut slowest = Duration::ZERO;
    for round in 1..=MESSAGES {
        for at in 0..people.len() {
            let other = people[(at + 1) % people.len()].name;
            let person = &mut people[at];
            for to in [Recipient::Room("agora".to_string()), Recipient::Person(other.to_string())] {
                let text = match &to {
                    Recipient::Person(other) => format!("{} to {other}, {round}: {when}", person.name),
                    _ => format!("{} to all, {round}: {when}", person.name),
                };
                let begun = Instant::now();
                let sent = person.chat.send(&to, &text).map_err(lab_error)?;
                slowest = slowest.max(begun.elapsed());
                let number = |name: &str| sent[name].as_u64().unwrap_or(0);
                let is_for = |name: &&str| matches!(to, Recipient::Room(_)) || [person.name, other].contains(name);
                let to = PEOPLE.into_iter().filter(is_for).collect();
                said.push(SentLine { to, line: (number("conversation"), number("number"), text) });
            }
        }
    }
    let count = MESSAGES * people.len() * 2;
    print_line(&format!("   {count} messages sent and acknowledged, the slowest after {} ms", slowest.as_millis()));
    Ok(())
}

/// Compares the messages of each user, from the stream and from the history, with those that were acknowledged.
fn check(
    people: &mut [Person],
    said: &[SentLine],
    faults: &mut Vec<String>,
    print_line: &mut dyn FnMut(&str),
) -> Result<()> {
    for person in people {
        let wanted = wanted(said, person.name);
        listen(person, wanted.len());
        let inbox = person.chat.get("conversations").map_err(lab_error)?;
        let rows = inbox["conversations"].as_array().cloned().unwrap_or_default();
        let mine: Vec<u64> = rows.iter().filter_map(|row| row["conversation"].as_u64()).collect();
        let mut kept = Vec::new();
        for id in &mine {
            kept.extend(person.chat.all_of(*id).map_err(lab_error)?.iter().map(|message| line(*id, message)));
        }
        let found = [("history", compare(&wanted, &kept)), ("stream", compare(&wanted, &person.heard))];
        let word = if found.iter().all(|(_, why)| why.is_none()) { "ok " } else { "BAD" };
        for (what, why) in found {
            faults.extend(why.map(|why| format!("{}'s {what}: {why}", person.name)));
        }
        let (count, talks) = (kept.len(), mine.len());
        print_line(&format!(
            "   {word} {}: {count} of {} messages in {talks} conversations",
            person.name,
            wanted.len()
        ));
    }
    Ok(())
}

/// The messages that a user must receive, by conversation and in order.
fn wanted(said: &[SentLine], name: &str) -> Vec<Line> {
    let mut wanted: Vec<Line> = said.iter().filter(|one| one.to.contains(&name)).map(|one| one.line.clone()).collect();
    wanted.sort();
    wanted
}

/// What is wrong with the messages that a user has received; `None`: each conversation is complete, in order and
/// without duplicates. Conversations may arrive in any order, and interleaved, as in a stream.
fn compare(wanted: &[Line], got: &[Line]) -> Option<String> {
    let mut got = got.to_vec();
    // Stable: the order in a conversation is the order in which its messages came.
    got.sort_by_key(|(conversation, ..)| *conversation);
    let count = |all: &[Line], one: &Line| all.iter().filter(|it| *it == one).count();
    let missing = wanted.iter().find(|one| count(&got, one) < count(wanted, one));
    let surplus = got.iter().find(|one| count(&got, one) > count(wanted, one));
    let moved = wanted.iter().zip(&got).find(|(one, other)| one != other).map(|(_, other)| other);
    let describe =
        |what: &str, (conversation, number, text): &Line| format!("{what}: {number} in {conversation}, {text:?}");
    missing
        .map(|one| describe("missing", one))
        .or_else(|| surplus.map(|one| describe("never sent, or duplicate", one)))
        .or_else(|| moved.map(|one| describe("out of order", one)))
}

/// A message as it is compared.
fn line(conversation: u64, message: &Value) -> Line {
    let text = message["text"].as_str().unwrap_or("(deleted)");
    (conversation, message["number"].as_u64().unwrap_or(0), text.to_string())
}

/// Reads `count` messages from the stream, and then a moment longer, for duplicates.
fn listen(person: &mut Person, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    let mut until = deadline;
    while Instant::now() < until {
        if person.heard.len() >= count {
            until = until.min(Instant::now() + Duration::from_millis(300));
        }
        match person.stream.next(until) {
            Ok(Some(event)) if event["type"] == "message" => {
                person.heard.push(line(event["conversation"].as_u64().unwrap_or(0), &event));
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::demo::chat::*;

    fn said() -> Vec<SentLine> {
        let one = |conversation, number, to: &[&'static str]| SentLine {
            to: to.to_vec(),
            line: (conversation, number, format!("{number} in {conversation}")),
        };
        let (all, some) = (["ann", "bob", "eve"], ["ann", "bob"]);
        vec![one(2, 1, &all), one(5, 1, &some), one(2, 2, &all), one(5, 2, &some), one(2, 3, &all), one(7, 1, &["eve"])]
    }

    #[test]
    fn only_complete_ordered_messages_without_duplicates_pass() {
        let wanted = wanted(&said(), "ann");
        let places: Vec<_> = wanted.iter().map(|(conversation, number, _)| (*conversation, *number)).collect();
        assert_eq!(places, [(2, 1), (2, 2), (2, 3), (5, 1), (5, 2)], "what ann must receive, and nothing of eve's");
        assert_eq!(compare(&wanted, &wanted), None);
        let mixed: Vec<Line> = [3, 0, 1, 4, 2].map(|at: usize| wanted[at].clone()).to_vec();
        assert_eq!(compare(&wanted, &mixed), None, "in the order of a stream");
        for at in 0..wanted.len() {
            let mut got = wanted.clone();
            let one = got.remove(at);
            assert_eq!(compare(&wanted, &got), Some(format!("missing: {} in {}, {:?}", one.1, one.0, one.2)));
            let mut got = wanted.clone();
            got.push(one.clone());
            assert!(compare(&wanted, &got).unwrap().starts_with("never sent, or duplicate"), "{one:?} twice");
            let mut got = wanted.clone();
            got[at].2 += "!";
            assert!(compare(&wanted, &got).is_some(), "another text");
            let mut got = wanted.clone();
            got[at].1 += 10;
            assert!(compare(&wanted, &got).is_some(), "another number");
        }
        for (at, next) in [(0, 1), (1, 2), (0, 2), (3, 4)] {
            let mut got = wanted.clone();
            got.swap(at, next);
            assert!(compare(&wanted, &got).unwrap().starts_with("out of order"), "{at} and {next}");
        }
        let mut extra = wanted.clone();
        extra.push((7, 1, "1 in 7".to_string()));
        assert!(compare(&wanted, &extra).is_some(), "somebody else's message");
        assert!(compare(&wanted, &[]).is_some(), "nothing at all");
    }
}
