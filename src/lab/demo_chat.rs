//! The play of `phalanx demo chat`: five nodes, three people, two deaths, then the death of all; and an account of every inbox.
//!
//! It starts its own processes on free ports, tells each step in plain words, and believes nothing: every message that was
//! answered is compared with what each person's stream said and with what the history says, in order and once.
//! Not here: printing and the exit code (`cli/demo.rs`), what a client does when a node dies (`client/`).

use super::cluster::Cluster;
use super::demo_jobs::Account;
use super::{LabError, Result};
use crate::client::{Chat, Fault, Follower, To};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const NODES: u64 = 5;
const PEOPLE: [&str; 3] = ["alice", "bob", "charlie"];
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Messages of each person in each act.
const MESSAGES: usize = 4;

struct Person {
    name: &'static str,
    chat: Chat,
    stream: Follower,
    /// What the stream said: conversation, number, text.
    heard: Vec<(u64, u64, String)>,
}

fn trouble(fault: Fault) -> LabError {
    LabError::Answer(fault.to_string())
}

/// Plays it; `say` gets each line as it happens.
///
/// # Errors
/// Processes do not start, or the cluster does not come to what a step needs.
pub fn play(exe: PathBuf, say: &mut dyn FnMut(&str)) -> Result<Account> {
    let mut cluster = Cluster::prepare(exe, &json!({"voters_max": NODES, "cluster_name": "demo chat"}))?;
    cluster.keep = true;
    say(&format!("1. {NODES} nodes start, in {}", cluster.dir().display()));
    for id in 1..=NODES {
        cluster.spawn(id, &[])?;
    }
    let leader = cluster.settle_as(NODES as usize)?;
    say(&format!("   They have elected node {leader}."));

    let mut people = sign_up(&cluster, say)?;
    // What was said and answered: conversation, number, text.
    let mut said: Vec<(u64, u64, String)> = Vec::new();
    say("3. They talk, in the room and with each other");
    act(&mut people, "before any death", &mut said, say)?;

    say(&format!("4. kill -9 of the leader, node {leader}; they talk on at once"));
    cluster.kill(leader)?;
    act(&mut people, "one node is dead", &mut said, say)?;
    let next = cluster.wait_other_leader(leader)?;
    say(&format!("   node {next} leads now"));

    say(&format!("5. kill -9 of the new leader, node {next}: three of five are left"));
    cluster.kill(next)?;
    act(&mut people, "two nodes are dead", &mut said, say)?;

    let mut faults = Vec::new();
    say("6. Everyone's inbox: complete, in order, without doubles?");
    judge(&mut people, &said, &mut faults, say)?;

    say("7. kill -9 of all that are left; then all five are started again");
    cluster.kill_all();
    for id in 1..=NODES {
        cluster.restart(id)?;
    }
    cluster.settle_as(NODES as usize)?;
    act(&mut people, "all were dead", &mut said, say)?;
    say("8. Everyone's inbox once more");
    judge(&mut people, &said, &mut faults, say)?;

    say("9. An orderly stop");
    drop(people);
    for id in cluster.running() {
        cluster.interrupt(id)?;
        let status = cluster.process(id)?.wait(PATIENCE)?;
        if !status.success() {
            faults.push(format!("node {id} ended with {status}"));
        }
    }
    say("   every process has ended");
    Ok(Account { faults, folder: cluster.dir().to_path_buf() })
}

fn sign_up(cluster: &Cluster, say: &mut dyn FnMut(&str)) -> Result<Vec<Person>> {
    say("2. Three people make accounts, each on a node of their own, and meet in the room #agora");
    let mut people = Vec::new();
    let mut room = None;
    for (place, name) in PEOPLE.into_iter().enumerate() {
        let mut chat = Chat::new(cluster.addresses());
        chat.client.within = PATIENCE;
        chat.client.go_to(place);
        let account = chat.sign_up(name, &format!("{name}'s secret")).map_err(trouble)?;
        let stream = chat.follow(Some(0));
        let id = match room {
            None => chat.post("rooms", &json!({"name": "agora"})).map_err(trouble)?["conversation"].as_u64(),
            Some(id) => {
                chat.post(&format!("rooms/{id}/join"), &json!({})).map_err(trouble)?;
                Some(id)
            }
        };
        room = room.or(id);
        say(&format!("   {name} is account {}, on {}", account["account"], chat.client.address()));
        people.push(Person { name, chat, stream, heard: Vec::new() });
    }
    Ok(people)
}

/// Each says something to the room and to the next person, in turn.
fn act(people: &mut [Person], when: &str, said: &mut Vec<(u64, u64, String)>, say: &mut dyn FnMut(&str)) -> Result<()> {
    let mut slowest = Duration::ZERO;
    for round in 1..=MESSAGES {
        for at in 0..people.len() {
            let other = people[(at + 1) % people.len()].name;
            let person = &mut people[at];
            for to in [To::Room("agora".to_string()), To::Person(other.to_string())] {
                let text = match &to {
                    To::Person(other) => format!("{} to {other}, {round}: {when}", person.name),
                    _ => format!("{} to all, {round}: {when}", person.name),
                };
                let begun = Instant::now();
                let sent = person.chat.send(&to, &text).map_err(trouble)?;
                slowest = slowest.max(begun.elapsed());
                let number = |name: &str| sent[name].as_u64().unwrap_or(0);
                said.push((number("conversation"), number("number"), text));
            }
        }
    }
    let count = MESSAGES * people.len() * 2;
    say(&format!("   {count} messages sent and answered, the slowest after {} ms", slowest.as_millis()));
    Ok(())
}

/// What each person must have, from the stream and from the history.
fn judge(
    people: &mut [Person],
    said: &[(u64, u64, String)],
    faults: &mut Vec<String>,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    for person in people {
        let inbox = person.chat.get("conversations").map_err(trouble)?;
        let rows = inbox["conversations"].as_array().cloned().unwrap_or_default();
        let mine: Vec<u64> = rows.iter().filter_map(|row| row["conversation"].as_u64()).collect();
        let mut wanted: Vec<_> = said.iter().filter(|(id, ..)| mine.contains(id)).cloned().collect();
        wanted.sort();
        listen(person, wanted.len());
        let mut kept = Vec::new();
        for id in &mine {
            let messages = person.chat.all_of(*id).map_err(trouble)?;
            let row = |one: &Value| Some((*id, one["number"].as_u64()?, one["text"].as_str()?.to_string()));
            kept.extend(messages.iter().filter_map(row));
        }
        kept.sort();
        // Told in the order of each conversation, and each once: sorting by conversation alone must give all.
        let mut heard = person.heard.clone();
        heard.sort_by_key(|(id, ..)| *id);
        let fine = [("history", kept == wanted), ("stream", heard == wanted)];
        for (what, _) in fine.iter().filter(|(_, is_fine)| !is_fine) {
            faults.push(format!("{}'s {what} is not what was said", person.name));
        }
        let word = if fine.iter().all(|(_, is_fine)| *is_fine) { "ok " } else { "BAD" };
        let (count, talks) = (kept.len(), mine.len());
        say(&format!("   {word} {}: {count} of {} messages in {talks} conversations", person.name, wanted.len()));
    }
    Ok(())
}

/// Reads the stream until it has said so many messages, and a moment longer: doubles would come then.
fn listen(person: &mut Person, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    let mut until = deadline;
    while Instant::now() < until {
        if person.heard.len() >= count {
            until = until.min(Instant::now() + Duration::from_millis(300));
        }
        match person.stream.next(until) {
            Ok(Some(line)) if line["type"] == "message" => {
                let number = |name: &str| line[name].as_u64().unwrap_or(0);
                let text = line["text"].as_str().unwrap_or_default().to_string();
                person.heard.push((number("conversation"), number("number"), text));
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
