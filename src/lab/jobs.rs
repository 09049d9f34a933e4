//! A client of jobs that retries on other nodes, as `client.rs` does.
//!
//! Not here: which jobs, and the expected results (`demo/jobs.rs`, `bench/job_rates.rs`, `tests/cluster/jobs/`).

use super::web::answer_until;
use super::{LabError, Result};
use crate::client::{Client, Request, Response};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Longest wait of one request for a job's end.
const WAIT: Duration = Duration::from_secs(5);
/// How long one node may take to accept a job before the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Jobs {
    client: Client,
}

impl Jobs {
    /// A client that starts with the first of these `host:port`s.
    pub fn new(addresses: Vec<String>) -> Jobs {
        Jobs { client: Client::new(addresses) }
    }

    /// Continues with the address at this place of the list.
    pub fn go_to(&mut self, place: usize) {
        self.client.go_to(place);
    }

    /// Submits a job (the body of `POST /v1/jobs`); returns its id.
    ///
    /// # Errors
    /// A node says that the request itself is wrong, or no node accepted it before the deadline.
    pub fn submit(&mut self, body: &Value, deadline: Instant) -> Result<u64> {
        let request = Request::change("POST", "/v1/jobs", body);
        let response = self.until(deadline, "a job is accepted", PATIENCE, &request)?;
        response.json()["id"].as_u64().ok_or_else(|| LabError::Answer(format!("no job id in {}", response.text())))
    }

    /// Waits until a job has ended; returns it.
    ///
    /// # Errors
    /// There is no such job, or it has not ended by the deadline.
    pub fn ended(&mut self, id: u64, deadline: Instant) -> Result<Value> {
        let request = Request::get(format!("/v1/jobs/{id}?wait={}s", WAIT.as_secs()));
        loop {
            let job = self.until(deadline, &format!("job {id} has ended"), WAIT + PATIENCE, &request)?.json();
            if !matches!(job["state"].as_str(), Some("queued" | "running")) {
                return Ok(job);
            }
        }
    }

    /// All jobs, newest first.
    ///
    /// # Errors
    /// No node answers before the deadline.
    pub fn all(&mut self, deadline: Instant) -> Result<Vec<Value>> {
        let (mut all, mut before) = (Vec::new(), String::new());
        loop {
            let request = Request::get(format!("/v1/jobs?limit=1000{before}"));
            let mut page = self.until(deadline, "the jobs are listed", PATIENCE, &request)?.json();
            if let Some(rows) = page["jobs"].as_array_mut() {
                all.append(rows);
            }
            match page["next"].as_u64() {
                Some(next) => before = format!("&before={next}"),
                None => return Ok(all),
            }
        }
    }

    fn until(&mut self, deadline: Instant, what: &str, patience: Duration, request: &Request) -> Result<Response> {
        self.client.patience = patience;
        answer_until(&mut self.client, deadline, what, request, |status| matches!(status, 200..=299))
    }
}
