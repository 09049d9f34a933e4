//! Body of `POST /v1/jobs`: JSON to the request that goes into the log.
//!
//! Not here: what a request may be (`services/jobs/commands.rs`).

use crate::http::protocol::error::ApiError;
use crate::http::server::Server;
use crate::services::jobs::commands::{LIMITS_MOST, LIMITS_USUAL};
use crate::services::jobs::{Limits, Request};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

/// Body of `POST /v1/jobs`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewJob {
    language: String,
    /// One file, which gets the language's default name.
    source: Option<String>,
    /// One or more files with names; the first is run.
    files: Option<Vec<NewFile>>,
    #[serde(default)]
    stdin: String,
    stdin_encoding: Option<Encoding>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    limits: NewLimits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewFile {
    name: String,
    content: String,
    encoding: Option<Encoding>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Base64,
}

/// A missing limit has its default.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewLimits {
    wall_ms: Option<u64>,
    cpu_ms: Option<u64>,
    memory_mb: Option<u64>,
    output_bytes: Option<u64>,
    files_mb: Option<u64>,
    processes: Option<u64>,
}

impl NewLimits {
    fn read(&self) -> Result<Limits, ApiError> {
        let (usual, most) = (LIMITS_USUAL, LIMITS_MOST);
        let one = |name: &str, given: Option<u64>, usual: u64, most: u64| match given {
            None => Ok(usual),
            Some(given) if (1..=most).contains(&given) => Ok(given),
            Some(_) => Err(ApiError::refused(400, format!("limits.{name} must be 1 to {most}"))),
        };
        Ok(Limits {
            wall_ms: one("wall_ms", self.wall_ms, usual.wall_ms, most.wall_ms)?,
            cpu_ms: one("cpu_ms", self.cpu_ms, usual.cpu_ms, most.cpu_ms)?,
            memory_mb: one("memory_mb", self.memory_mb, usual.memory_mb, most.memory_mb)?,
            output_bytes: one("output_bytes", self.output_bytes, usual.output_bytes, most.output_bytes)?,
            files_mb: one("files_mb", self.files_mb, usual.files_mb, most.files_mb)?,
            processes: one("processes", self.processes, usual.processes, most.processes)?,
        })
    }
}

fn bytes_of(text: String, encoding: Option<Encoding>, what: &str) -> Result<Vec<u8>, ApiError> {
    match encoding {
        None => Ok(text.into_bytes()),
        Some(Encoding::Base64) => {
            BASE64.decode(text).map_err(|_| ApiError::refused(400, format!("{what} is not base64")))
        }
    }
}

impl NewJob {
    pub(crate) fn read(self, server: &Server, keep_ms: u64) -> Result<Request, ApiError> {
        let files = match (self.source, self.files) {
            (Some(source), None) => {
                // Other nodes may have a language that is not in this node's settings: the job service knows.
                let name = server.file_name(&self.language).unwrap_or("main").to_string();
                vec![(name, source.into_bytes().into())]
            }
            (None, Some(files)) => {
                let read = |file: NewFile| Ok((file.name, bytes_of(file.content, file.encoding, "a file")?.into()));
                files.into_iter().map(read).collect::<Result<_, ApiError>>()?
            }
            _ => return Err(ApiError::refused(400, "give source, or files as [{\"name\", \"content\"}]")),
        };
        Ok(Request {
            language: self.language,
            files,
            stdin: bytes_of(self.stdin, self.stdin_encoding, "stdin")?.into(),
            args: self.args,
            limits: self.limits.read()?,
            keep_ms,
        })
    }
}
