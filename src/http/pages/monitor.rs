//! `GET /`: the monitor page, and the same figures as a table for users of curl.
//!
//! A browser gets style and script in the first chunk, so that one viewer is one connection (and one unit of load) and
//! the page needs nothing more from a node that may die the next moment. Its policy runs only scripts with this
//! response's nonce. Other clients get the page with links instead, plain `<script>update(...)</script>` chunks, a
//! policy that would run none of them, and after each frame a comment with the table.
//! Not here: what the page does (`static/app.js`, `jobs.js`, `run.js`, `lab.js`), sending it (`monitor_stream.rs`).

use super::static_files::{PAGE, SCRIPTS, STYLE, fill, nodes_json, policy};
use crate::faults::switch;
use crate::http::access;
use crate::http::protocol::head::Head;
use crate::http::server::Server;
use crate::lock::lock;
use crate::node::Published;
use crate::node::views::status::{Health, JobsStatus, Liveness, MonitorFrame, Standing};
use crate::raft::Role;
use serde_json::json;
use std::fmt::Write;
use std::sync::Arc;

/// The page for one viewer.
pub(crate) struct Page {
    /// The first chunk.
    pub html: String,
    /// `Content-Security-Policy`.
    pub policy: String,
    /// Opens the script element of each frame.
    pub before_frame: String,
    /// Closes it.
    pub after_frame: &'static str,
    /// Whether a table follows each frame.
    pub has_table: bool,
}

impl Page {
    /// The page that fits the client.
    pub(crate) fn of(server: &Server, head: &Head, session_id: &str) -> Page {
        let is_browser = head.accept.as_deref().is_some_and(|accept| accept.contains("text/html"));
        let addresses = server.host.http_addresses();
        let nodes = nodes_json(&addresses);
        let front_port = server.host.settings().service_port;
        // For nodes of other hosts, to which the browser sends no cookie.
        let access = access::new_session(server);
        let hello = json!({
            "node": server.host.identity().id, "session": session_id, "nodes": nodes, "front_port": front_port,
            "access": access, "is_lab": switch::get().is_some(),
        });
        let hello = hello.to_string().replace('<', "\\u003c");
        if is_browser {
            let nonce = uuid::Uuid::new_v4().simple().to_string();
            Page {
                html: fill(
                    PAGE,
                    &[
                        ("{{style}}", &format!("<style nonce=\"{nonce}\">{STYLE}</style>")),
                        ("{{script}}", &format!("<script nonce=\"{nonce}\">{}</script>", SCRIPTS.concat())),
                        ("{{hello}}", &format!("<script nonce=\"{nonce}\">hello({hello})</script>")),
                    ],
                ),
                policy: policy(&addresses, &head.host, &nonce),
                before_frame: format!("<script nonce=\"{nonce}\">update("),
                after_frame: ")</script>",
                has_table: false,
            }
        } else {
            Page {
                html: fill(
                    PAGE,
                    &[
                        ("{{style}}", "<link rel=\"stylesheet\" href=\"/static/style.css\">"),
                        (
                            "{{script}}",
                            "<script src=\"/static/jobs.js\"></script><script src=\"/static/run.js\"></script>\
                             <script src=\"/static/lab.js\"></script><script src=\"/static/app.js\"></script>",
                        ),
                        ("{{hello}}", &format!("<script>hello({hello})</script>\n")),
                    ],
                ),
                policy: "default-src 'none'; frame-ancestors 'none'".to_owned(),
                before_frame: "<script>update(".to_owned(),
                after_frame: ")</script>\n",
                has_table: true,
            }
        }
    }
}

/// The frame as a table, made once for all clients. It may stand in a comment.
pub(crate) fn table(server: &Server, published: &Published) -> Arc<str> {
    let mut newest = lock(&server.table);
    if newest.0 != published.seq {
        // Two dashes and a bracket would end the comment, and texts of nodes are not trusted.
        let text = render(&published.frame).replace("--", "- ");
        *newest = (published.seq, text.into());
    }
    newest.1.clone()
}

fn render(frame: &MonitorFrame) -> String {
    let cluster = &frame.status.cluster;
    let mut text = String::with_capacity(1024);
    let leader = cluster.leader.map_or("no leader".to_owned(), |leader| format!("node {} leads", leader.0));
    let _ = writeln!(
        text,
        "  {}: {}   {leader} in term {}   seen by node {}\n",
        cluster.name,
        health_line(frame),
        cluster.term,
        frame.status.node.id.0
    );
    let _ = writeln!(text, "  node  state    role       load     last   commit  applied    lag  heartbeat");
    for row in &frame.status.nodes {
        let state = match row.status {
            Liveness::Leader => "LEADER",
            Liveness::Online => "ONLINE",
            Liveness::Offline => "OFFLINE",
        };
        let role = match (row.membership, row.role) {
            (Standing::Learner, _) => "learner",
            (Standing::None, _) => "newcomer",
            (_, Role::Leader) => "leader",
            (_, Role::Candidate) => "candidate",
            (_, Role::Follower) => "follower",
        };
        let load = if row.status == Liveness::Offline { "-".to_owned() } else { row.load.to_string() };
        let heard = row.heartbeat_age_ms.map_or("never".to_owned(), |age| format!("{age} ms"));
        let _ = writeln!(
            text,
            "  {:>4}  {state:<7}  {role:<9}  {load:>4}  {:>7}  {:>7}  {:>7}  {:>5}  {heard:>9}",
            row.id.0, row.last_index, row.commit_index, row.applied_index, row.lag
        );
    }
    jobs_lines(&frame.status.jobs, &mut text);
    if let Some(event) = frame.events.last() {
        let _ = writeln!(text, "\n  {}", event.text.replace(char::is_control, " "));
    }
    text
}

/// Numbers of jobs, the workers, and the newest result. Nothing if no worker has joined.
fn jobs_lines(jobs: &JobsStatus, text: &mut String) {
    if jobs.workers.is_empty() {
        return;
    }
    let (here, gone): (Vec<_>, Vec<_>) = jobs.workers.iter().partition(|worker| worker.is_here);
    let slots: u64 = here.iter().map(|worker| worker.slots).sum();
    let _ = write!(text, "\n  jobs: {} running, {} queued; {} workers", jobs.running, jobs.queued, here.len());
    let _ = write!(text, " with {slots} slots");
    for (at, worker) in gone.iter().enumerate() {
        let _ = write!(text, "{} node {}", if at == 0 { "; offline:" } else { "," }, worker.id.0);
    }
    for (id, trouble) in here.iter().filter_map(|worker| Some((worker.id, worker.trouble.as_ref()?))) {
        let _ = write!(text, "; problem on node {}: {}", id.0, trouble.replace(char::is_control, " "));
    }
    text.push('\n');
    if let Some(last) = jobs.last.first() {
        let _ = write!(text, "  last: job {}, {}, {}", last.id, last.language, last.verdict.replace('_', " "));
        if let Some(code) = last.exit_code {
            let _ = write!(text, ", exit code {code}");
        }
        if let Some(worker) = last.worker {
            let _ = write!(text, ", on node {}", worker.0);
        }
        if last.attempt > 1 {
            let _ = write!(text, ", attempt {}", last.attempt);
        }
        let _ = write!(text, ", {} ms", last.took_ms);
        if !last.says.is_empty() {
            let _ = write!(text, ": {}", last.says.replace(char::is_control, " "));
        }
        text.push('\n');
    }
}

/// `healthy: can lose 2 more`.
fn health_line(frame: &MonitorFrame) -> String {
    let cluster = &frame.status.cluster;
    let line = match (cluster.verdict, cluster.failure_tolerance) {
        (Health::Unavailable, _) if cluster.has_quorum => "unavailable: no leader yet".to_owned(),
        (Health::Unavailable, _) => "unavailable: no majority of the voters is reachable".to_owned(),
        (Health::Healthy, spare) => format!("healthy: can lose {spare} more"),
        (Health::Degraded, 0) => "degraded: cannot lose another".to_owned(),
        (Health::Degraded, spare) => format!("degraded: can lose {spare} more"),
    };
    if cluster.reasons.is_empty() { line } else { format!("{line} ({})", cluster.reasons.join("; ")) }
}
