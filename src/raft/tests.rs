//! Golden scripts: recorded traces of a small cluster, each read by a person before it was committed.
//!
//! One behaviour per file in `scripts/`, named after it. `UPDATE_GOLDENFILES=1 cargo test --lib raft::` records them
//! anew; read the difference before you commit it. `world.rs` is the cluster, this file the language:
//!
//! - `cluster N [preempt=true] [ids=false] [append=BYTES]`: N voters with one membership entry; `bootstrap` one voter
//!   that starts a cluster; `join N` an empty node; `witness [N ...]`: all start again, and these are voters without
//!   services
//! - `preset N term=T log=1.1.3`: what node N's disk holds, by terms of its entries (the first is the membership)
//! - `tick [N]` · `until leader` (at most 200 ticks) · `quiet N`: ticks whose events do not matter · `status` · `log N`
//!   · `trace on`
//! - `kill N`, `restart N`, `host N at=M` (its voter, in the process of M), `wipe N`, `image N`, `restore N` (the older disk) · `freeze N`, `thaw N` · `disk N
//!   hang|ok|low|roomy`
//! - `cut A B`, `cut A>B`, `isolate N`, `heal` · `link-lost AT OF`, `link-up AT OF` · `hold KIND`, `drop`, `release`,
//!   `pass [KIND [COUNT]]` (those held now), `replay` (release, and keep copies)
//! - `propose [N] X`, `read [N]`, `add|promote|demote|remove N`, `transfer [N]`, `leaving [N ...]` (nodes that
//!   stop, told to the leader), `lead N`, `snapshot N`, `ship FROM TO`, `plant NAME`
//!
//! `kill` alone does not tell the others: `kill N noticed=true` also breaks their links.

mod guard;
mod stream;
mod world;

use super::*;
use goldenscript::Command;
use std::error::Error;
use std::fmt::Write as _;
use world::{KINDS, World, entry, identity, kind, members};

type Outcome = Result<(), Box<dyn Error>>;

#[test]
fn scripts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/raft/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "script"));
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {folder}");
    let mut failed = Vec::new();
    for path in paths {
        let run = std::panic::AssertUnwindSafe(|| goldenscript::run(&mut World::new(), &path));
        match std::panic::catch_unwind(run) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => failed.push(format!("{}: {why}", path.display())),
            Err(_) => failed.push(format!("{}: panicked", path.display())),
        }
    }
    assert!(failed.is_empty(), "scripts failed: {failed:#?}");
}

impl goldenscript::Runner for World {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        self.out.clear();
        let mut args = command.consume_args();
        let mut keys = BTreeMap::new();
        while let Some((key, value)) = args.next_key() {
            keys.insert(key.to_string(), value.to_string());
        }
        let words: Vec<&str> = std::iter::from_fn(|| args.next_pos()).collect();
        let is_done = self.run_cluster(&command.name, &words, &keys)?
            || self.run_fault(&command.name, &words, &keys)?
            || self.run_request(&command.name, &words)?;
        if !is_done {
            return Err(format!("unknown command '{}'", command.name).into());
        }
        Ok(std::mem::take(&mut self.out))
    }
}

fn node(words: &[&str], at: usize) -> Result<NodeId, Box<dyn Error>> {
    Ok(NodeId(words.get(at).ok_or("which node?")?.parse()?))
}

impl World {
    fn run_cluster(
        &mut self,
        name: &str,
        words: &[&str],
        keys: &BTreeMap<String, String>,
    ) -> Result<bool, Box<dyn Error>> {
        match name {
            "cluster" => {
                let count: u64 = words.first().ok_or("how many?")?.parse()?;
                self.config.preempt = keys.get("preempt").is_some_and(|value| value == "true");
                if let Some(bytes) = keys.get("append") {
                    self.config.append_bytes_max = bytes.parse()?;
                }
                if let Some(ticks) = keys.get("heartbeat") {
                    self.config.heartbeat_ticks = Ticks(ticks.parse()?);
                }
                for (key, ticks) in [
                    ("shortest", &mut self.config.election_timeout_min_ticks),
                    ("longest", &mut self.config.election_timeout_max_ticks),
                ] {
                    if let Some(value) = keys.get(key) {
                        *ticks = Ticks(value.parse()?);
                    }
                }
                self.config.highest_id_first = keys.get("ids").is_none_or(|value| value == "true");
                let voters = (1..=count).map(|id| (NodeId(id), identity(id, 0).uuid)).collect();
                let payload = Payload::Membership(Arc::new(Membership { voters, learners: BTreeMap::new() }));
                let first = Entry { index: Index(1), term: Term(1), payload };
                for id in 1..=count {
                    let hard_state = HardState { term: Term(1), vote: None };
                    self.add(id, 0, Durable { hard_state, snapshot: None, entries: vec![first.clone()] });
                }
            }
            "bootstrap" => self.add(1, 0, bootstrap_state(identity(1, 0))),
            "witness" => self.have_witnesses((0..words.len()).map(|at| node(words, at)).collect::<Result<_, _>>()?),
            "join" => self.add(node(words, 0)?.0, 0, Durable::default()),
            "preset" => self.preset(node(words, 0)?, keys)?,
            "tick" => {
                for _ in 0..words.first().map_or(Ok(1), |word| word.parse())? {
                    self.tick();
                }
            }
            "until" => self.until_leader()?,
            "quiet" => {
                for _ in 0..words.first().ok_or("how many ticks?")?.parse()? {
                    self.tick();
                }
                self.out.clear();
            }
            "status" => self.status(),
            "log" => {
                let node = &self.nodes[&node(words, 0)?];
                let raft = node.raft.as_ref().ok_or("it is dead")?;
                let entries = raft.entries(Index(1), raft.last_index());
                let list: Vec<String> = entries.iter().map(entry).collect();
                writeln!(self.out, "{}", list.join(" "))?;
            }
            "trace" => self.is_traced = words == ["on"],
            "plant" => self.plant(words.first().ok_or("which bug?")?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn run_fault(
        &mut self,
        name: &str,
        words: &[&str],
        keys: &BTreeMap<String, String>,
    ) -> Result<bool, Box<dyn Error>> {
        match name {
            "kill" => {
                let id = node(words, 0)?;
                self.kill(id);
                if keys.get("noticed").is_some_and(|value| value == "true") {
                    let others: Vec<NodeId> = self.nodes.keys().copied().collect();
                    for other in others {
                        self.step(other, Input::LinkLost(id));
                    }
                    self.deliver();
                }
            }
            "restart" => {
                self.kill(node(words, 0)?);
                self.start(node(words, 0)?);
            }
            "host" => {
                let at = keys.get("at").ok_or("at which node?")?.parse()?;
                self.host(node(words, 0)?, NodeId(at));
                self.deliver();
            }
            "wipe" => self.wipe(node(words, 0)?),
            "image" => self.image(node(words, 0)?),
            "restore" => self.restore(node(words, 0)?)?,
            "freeze" => self.nodes.get_mut(&node(words, 0)?).ok_or("no such node")?.is_frozen = true,
            "thaw" => self.nodes.get_mut(&node(words, 0)?).ok_or("no such node")?.is_frozen = false,
            "disk" => self.disk(node(words, 0)?, words.get(1).ok_or("what about it?")?)?,
            "cut" => match words[0].split_once('>') {
                Some((from, to)) => _ = self.cut.insert((NodeId(from.parse()?), NodeId(to.parse()?))),
                None => {
                    let (a, b) = (node(words, 0)?, node(words, 1)?);
                    self.cut.extend([(a, b), (b, a)]);
                }
            },
            "isolate" => {
                let id = node(words, 0)?;
                let others: Vec<NodeId> = self.nodes.keys().copied().filter(|other| *other != id).collect();
                self.cut.extend(others.iter().flat_map(|other| [(id, *other), (*other, id)]));
            }
            "heal" => self.cut.clear(),
            "link-lost" | "link-up" => {
                let (at, of) = (node(words, 0)?, node(words, 1)?);
                let round_trip = Ticks(keys.get("round-trip").map_or(Ok(0), |ticks| ticks.parse())?);
                let up = Input::LinkUp { peer: of, round_trip };
                self.step(at, if name == "link-up" { up } else { Input::LinkLost(of) });
                self.deliver();
            }
            "hold" if words == ["snapshot"] => self.hold_snapshots = true,
            "hold" => {
                let word = words.first().ok_or("what?")?;
                self.hold.insert(KINDS.into_iter().find(|kind| kind == word).ok_or("no such kind")?);
            }
            "drop" => {
                self.hold.clear();
                self.held.clear();
            }
            "held" => {
                for message in &self.held {
                    let Message { from, to, term, body } = message;
                    writeln!(self.out, "{}->{} t{term} {}", from.id, to.id, kind(body))?;
                }
            }
            "release" => {
                self.hold_snapshots = false;
                self.release();
            }
            "pass" => {
                let mut left: usize = words.get(1).map_or(Ok(usize::MAX), |count| count.parse())?;
                let is_meant = |message: &Message| {
                    let is_meant = left > 0 && words.first().is_none_or(|word| *word == kind(&message.body));
                    left -= usize::from(is_meant);
                    is_meant
                };
                let (passing, kept) = std::mem::take(&mut self.held).into_iter().partition(is_meant);
                self.held = kept;
                self.pass(passing);
            }
            "replay" => {
                let copies = self.held.clone();
                self.release();
                self.held = copies;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn run_request(&mut self, name: &str, words: &[&str]) -> Result<bool, Box<dyn Error>> {
        let leader = || self.leader().ok_or("nobody leads");
        let token = Token(0);
        let (at, input) = match name {
            "propose" => {
                let at = if words.len() > 1 { node(words, 0)? } else { leader()? };
                let command = words.last().ok_or("what?")?.as_bytes().into();
                (at, Input::Propose { token, command })
            }
            "read" => (if words.is_empty() { leader()? } else { node(words, 0)? }, Input::Read { token }),
            "add" => {
                let change = Change::AddLearner(self.nodes[&node(words, 0)?].me);
                (leader()?, Input::Change { token, change })
            }
            "promote" => (leader()?, Input::Change { token, change: Change::Promote(node(words, 0)?) }),
            "demote" => (leader()?, Input::Change { token, change: Change::Demote(node(words, 0)?) }),
            "remove" => (leader()?, Input::Change { token, change: Change::Remove(node(words, 0)?) }),
            "transfer" => {
                let to = words.first().map(|_| node(words, 0)).transpose()?;
                (leader()?, Input::Transfer { token, to })
            }
            "leaving" => {
                let nodes = (0..words.len()).map(|at| node(words, at)).collect::<Result<_, _>>()?;
                (leader()?, Input::Leaving(nodes))
            }
            "lead" => (node(words, 0)?, Input::Lead),
            "ship" => {
                self.ship(node(words, 0)?, node(words, 1)?);
                return Ok(true);
            }
            "snapshot" => {
                self.save_snapshot(node(words, 0)?);
                return Ok(true);
            }
            _ => return Ok(false),
        };
        let token = self.token();
        let input = match input {
            Input::Propose { command, .. } => Input::Propose { token, command },
            Input::Read { .. } => Input::Read { token },
            Input::Change { change, .. } => Input::Change { token, change },
            Input::Transfer { to, .. } => Input::Transfer { token, to },
            other => other,
        };
        self.step(at, input);
        self.deliver();
        Ok(true)
    }

    /// Gives a node's disk a term and a log; the first entry stays the membership.
    fn preset(&mut self, id: NodeId, keys: &BTreeMap<String, String>) -> Outcome {
        let node = self.nodes.get_mut(&id).ok_or("no such node")?;
        if let Some(term) = keys.get("term") {
            node.durable.hard_state = HardState { term: Term(term.parse()?), vote: None };
        }
        if let Some(log) = keys.get("log") {
            node.durable.entries.truncate(1);
            for (i, term) in log.split('.').enumerate().skip(1) {
                let command = format!("t{term}i{}", i + 1).into_bytes().into();
                let payload = Payload::Command(command);
                let entry = Entry { index: Index(i as u64 + 1), term: Term(term.parse()?), payload };
                node.durable.entries.push(entry);
            }
        }
        self.start(id);
        Ok(())
    }

    fn until_leader(&mut self) -> Outcome {
        for ticks in 0..200 {
            let ready = |id: NodeId| {
                let view = self.nodes[&id].raft.as_ref().map(Raft::view);
                view.is_some_and(|view| view.has_committed_own_term && view.has_quorum)
            };
            if self.leader().is_some_and(ready) {
                writeln!(self.out, "after {ticks} ticks")?;
                return Ok(());
            }
            self.tick();
        }
        writeln!(self.out, "no leader after 200 ticks")?;
        Ok(())
    }

    fn status(&mut self) {
        for (id, node) in &self.nodes {
            let Some(raft) = &node.raft else {
                writeln!(self.out, "{id} dead").unwrap();
                continue;
            };
            let view = raft.view();
            let role = format!("{:?}", view.role).to_lowercase();
            let leader = view.leader.map_or("?".into(), |leader| leader.to_string());
            let durable = raft.durable_index();
            let (term, last, commit) = (view.term, view.last_index, view.commit_index);
            write!(self.out, "{id} {role} t{term} leader={leader} last={last} durable={durable} commit={commit}")
                .unwrap();
            if view.snapshot_index > Index(0) {
                write!(self.out, " snapshot={}", view.snapshot_index).unwrap();
            }
            let frozen = if node.is_frozen { " frozen" } else { "" };
            let handing = view.transfer_to.map_or(String::new(), |to| format!(" hands over to {to}"));
            writeln!(self.out, " [{}]{handing}{frozen}", members(&view.membership)).unwrap();
        }
    }

    fn disk(&mut self, id: NodeId, what: &str) -> Outcome {
        match what {
            "hang" => self.nodes.get_mut(&id).ok_or("no such node")?.is_hung = true,
            "ok" => {
                self.nodes.get_mut(&id).ok_or("no such node")?.is_hung = false;
                self.sync(id);
            }
            "low" => self.step(id, Input::DiskLow(true)),
            "roomy" => self.step(id, Input::DiskLow(false)),
            _ => return Err("hang, ok, low or roomy?".into()),
        }
        self.deliver();
        Ok(())
    }

    /// Switches a planted bug on, for all nodes that start from now on.
    fn plant(&mut self, name: &str) -> Outcome {
        let bugs = &mut self.config.bugs;
        match name {
            "priority-vetoes" => bugs.priority_vetoes = true,
            "commit-old-term" => bugs.commit_old_term = true,
            "count-learner" => bugs.count_learner = true,
            "forget-vote" => bugs.forget_vote_on_step_down = true,
            "answer-before-sync" => bugs.answer_before_sync = true,
            "truncate-after-prev" => bugs.truncate_after_prev = true,
            "ack-own-last-index" => bugs.ack_own_last_index = true,
            "count-duplicate-vote" => bugs.count_duplicate_vote = true,
            "count-earlier-session" => bugs.count_earlier_session = true,
            "skip-log-freshness" => bugs.skip_log_freshness = true,
            "read-before-own-commit" => bugs.read_before_own_commit = true,
            "reuse-read-context" => bugs.reuse_read_context = true,
            "change-before-own-commit" => bugs.change_before_own_commit = true,
            "two-changes" => bugs.two_changes = true,
            "snapshot-loses-membership" => bugs.snapshot_loses_membership = true,
            "snapshot-keeps-conflict" => bugs.snapshot_keeps_conflict = true,
            "transfer-never-cleared" => bugs.transfer_never_cleared = true,
            "hears-unknown-senders" => bugs.hears_unknown_senders = true,
            "terms-wrap" => bugs.terms_wrap = true,
            "late-transfer-obeyed" => bugs.late_transfer_obeyed = true,
            _ => return Err("no such planted bug".into()),
        }
        Ok(())
    }
}
