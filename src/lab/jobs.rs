//! A client of the jobs that wants results, come what may: it knows every address, and goes on with the next one when a node
//! dies, declines or is silent. Every request has a key of its own, so handing it in twice is handing it in once.
//!
//! Not here: what is asked and expected (`demo_jobs.rs`, `job_rates.rs`, `tests/cluster_jobs.rs`).

use super::web::{Connection, Response};
use super::{LabError, Result, poll};
use serde_json::Value;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Pause before the next address is tried.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest wait of one request for a job's end.
const WAIT: Duration = Duration::from_secs(5);

/// The client.
#[derive(Debug)]
pub struct Jobs {
    addresses: Vec<String>,
    at: usize,
    /// How long one node may take to accept a job before the next is asked.
    pub patience: Duration,
}

impl Jobs {
    /// A client that begins with the first of these `host:port`s.
    pub fn new(addresses: Vec<String>) -> Jobs {
        Jobs { addresses, at: 0, patience: Duration::from_secs(2) }
    }

    /// Begins with the address at this place of the list.
    pub fn go_to(&mut self, place: usize) {
        self.at = place % self.addresses.len().max(1);
    }

    /// Hands a job in (the body of `POST /v1/jobs`); its number.
    ///
    /// # Errors
    /// A node says that the request itself is wrong, or nobody took it before the deadline.
    pub fn hand_in(&mut self, body: &Value, deadline: Instant) -> Result<u64> {
        let (key, body) = (Uuid::new_v4(), body.to_string());
        let headers = format!("Content-Type: application/json\r\nIdempotency-Key: {key}\r\n");
        let response = self.until(deadline, "a job is taken in", |connection, until| {
            connection.send_bytes("POST", "/v1/jobs", &headers, Some(body.as_bytes()))?;
            connection.answer(until)
        })?;
        response.json()["id"].as_u64().ok_or_else(|| LabError::Answer(format!("no number in {}", response.text())))
    }

    /// Waits until a job has ended; all that is known of it.
    ///
    /// # Errors
    /// There is no such job, or it has not ended by the deadline.
    pub fn ended(&mut self, id: u64, deadline: Instant) -> Result<Value> {
        let path = format!("/v1/jobs/{id}?wait={}s", WAIT.as_secs());
        let patience = self.patience;
        self.patience = WAIT + patience;
        let found = loop {
            let asked = self.until(deadline, &format!("job {id} has ended"), |connection, until| {
                connection.ask("GET", &path, None, until)
            });
            match asked.map(|response| response.json()) {
                Ok(job) if matches!(job["state"].as_str(), Some("queued" | "running")) => {}
                other => break other,
            }
        };
        self.patience = patience;
        found
    }

    /// Every job that there is, newest first.
    ///
    /// # Errors
    /// Nobody answers before the deadline.
    pub fn all(&mut self, deadline: Instant) -> Result<Vec<Value>> {
        let (mut all, mut before) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/jobs?limit=1000{before}");
            let page = self.until(deadline, "the jobs are listed", |connection, until| {
                connection.ask("GET", &path, None, until)
            })?;
            let mut page = page.json();
            if let Some(rows) = page["jobs"].as_array_mut() {
                all.append(rows);
            }
            match page["next"].as_u64() {
                Some(next) => before = format!("&before={next}"),
                None => return Ok(all),
            }
        }
    }

    fn until(
        &mut self,
        deadline: Instant,
        what: &str,
        mut attempt: impl FnMut(&mut Connection, Instant) -> std::io::Result<Response>,
    ) -> Result<Response> {
        let started = Instant::now();
        let mut last = String::from("never tried");
        while Instant::now() < deadline {
            let until = deadline.min(Instant::now() + self.patience);
            let address = &self.addresses[self.at];
            match Connection::open(address, self.patience).and_then(|mut connection| attempt(&mut connection, until)) {
                Ok(response) => match response.status {
                    200..=299 => return Ok(response),
                    503 | 504 => last = format!("{address} answered {}: {}", response.status, response.text()),
                    status => {
                        return Err(LabError::Answer(format!("{address} answered {status}: {}", response.text())));
                    }
                },
                Err(e) => last = format!("{address}: {e}"),
            }
            self.at = (self.at + 1) % self.addresses.len();
            poll::pause(PAUSE.min(deadline.saturating_duration_since(Instant::now())));
        }
        Err(LabError::Timeout { what: what.to_string(), after: started.elapsed(), detail: format!("; {last}") })
    }
}
