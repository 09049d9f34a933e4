//! Commands, queries and replies of the jobs: the types that endpoints, workers and the service share.
//!
//! An endpoint translates a client's request into a [`Request`]; a worker reports the result of an attempt in an
//! [`End`]. Points in time are log time in milliseconds since 1970; durations are milliseconds of the worker's clock,
//! and no decision depends on them.
//! Not here: what a command changes (`state.rs`), its form in a protocol (`http/`, `cli/`).

use crate::types::{Identity, NodeId};
use serde::{Deserialize, Serialize};
pub use serde_bytes::ByteBuf as Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Number of a job; jobs are numbered from 1 in the order of submission.
pub type JobId = u64;

/// Maximum size of a request in bytes: files, standard input and arguments together.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Maximum number of files of a request.
pub const FILES_MAX: usize = 256;
/// Maximum length in bytes of a file name, of a language name and of an argument.
pub const NAME_BYTES_MAX: usize = 4096;
/// Maximum bytes of output in an [`End`]: standard output and standard error together.
pub const OUTPUT_BYTES_MAX: usize = 4 << 20;
/// Maximum number of queued and running jobs. More are refused.
pub const OPEN_MAX: usize = 100_000;
/// Maximum bytes of all queued and running jobs. More are refused.
pub const OPEN_BYTES_MAX: usize = 512 << 20;
/// Maximum bytes of all ended jobs: beyond it the jobs that ended first are forgotten early.
pub const ENDED_BYTES_MAX: usize = 256 << 20;
/// Number of lost workers after which a running job fails: the job itself may be the cause.
pub const LOSSES_MAX: u32 = 5;
/// A lost worker counts against its job if the worker has reported something since it was assigned the job, or had the
/// job for this time (milliseconds of log time). When all nodes fail at once, a job may be assigned to each of them in
/// turn before it is declared lost; the job is not the cause of that.
pub const LOSS_COUNTS_AFTER_MS: u64 = 10_000;
/// Maximum number of attempts of a job, regardless of the reason for a new one.
pub const ATTEMPTS_MAX: u32 = 25;
/// Number of failed sandbox starts, on any workers, after which a job fails.
pub const SETBACKS_MAX: usize = 6;
/// Maximum length in bytes of the reason why a sandbox did not start.
pub const REASON_BYTES_MAX: usize = 2048;
/// Maximum bytes of standard output, and of standard error, that are kept of an attempt that did not end its job: the
/// last ones.
pub const PAST_OUTPUT_BYTES_MAX: usize = 64 << 10;
/// A language counts as unknown if all workers with it left longer ago than this, in milliseconds of log time.
pub const AWAY_MAX_MS: u64 = 600_000;
/// Maximum bytes of all arguments of a request together, within the limits of operating systems.
pub const ARGS_BYTES_MAX: usize = 64 << 10;
/// Maximum number of arguments, because empty ones need memory as well.
pub const ARGS_MAX: usize = 1000;
/// Maximum number of components of a file name, including folders.
pub const NAME_PARTS_MAX: usize = 16;
/// Maximum length in bytes of a component of a file name.
pub const PART_BYTES_MAX: usize = 255;
/// Maximum number of workers in the table. Beyond it the absent worker that has been idle longest is forgotten.
pub const WORKERS_MAX: usize = 256;

/// Limits of one attempt. The worker applies the smaller of these and of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Wall-clock time in milliseconds.
    pub wall_ms: u64,
    /// Processor time of each process, in milliseconds.
    pub cpu_ms: u64,
    /// Memory, in MiB.
    pub memory_mb: u64,
    /// Standard output and standard error together, in bytes.
    pub output_bytes: u64,
    /// Size of all its files, in MiB.
    pub files_mb: u64,
    /// Number of concurrent processes and threads.
    pub processes: u64,
}

impl Limits {
    /// Returns the smaller of each limit.
    pub fn within(self, most: Limits) -> Limits {
        Limits {
            wall_ms: self.wall_ms.min(most.wall_ms),
            cpu_ms: self.cpu_ms.min(most.cpu_ms),
            memory_mb: self.memory_mb.min(most.memory_mb),
            output_bytes: self.output_bytes.min(most.output_bytes),
            files_mb: self.files_mb.min(most.files_mb),
            processes: self.processes.min(most.processes),
        }
    }
}

/// Limits of a job whose request has none.
pub const LIMITS_USUAL: Limits =
    Limits { wall_ms: 10_000, cpu_ms: 10_000, memory_mb: 256, output_bytes: 1 << 20, files_mb: 64, processes: 64 };
/// Maximum limits that a request may have.
pub const LIMITS_MOST: Limits = Limits {
    wall_ms: 600_000,
    cpu_ms: 600_000,
    memory_mb: 4096,
    output_bytes: OUTPUT_BYTES_MAX as u64,
    files_mb: 1024,
    processes: 1024,
};

/// A program that a client submits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Name of the runtime.
    pub language: String,
    /// Name and content of each source file; the first is the main file.
    pub files: Vec<(String, Bytes)>,
    pub stdin: Bytes,
    pub args: Vec<String>,
    pub limits: Limits,
    /// How long the ended job is kept, in milliseconds of log time.
    pub keep_ms: u64,
}

impl Request {
    /// Returns its size in bytes.
    pub fn bytes(&self) -> usize {
        let files: usize = self.files.iter().map(|(name, content)| name.len() + content.len()).sum();
        let args: usize = self.args.iter().map(|arg| size_of::<String>() + arg.len()).sum();
        self.language.len() + files + self.stdin.len() + args
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobOutcome {
    /// The program ended by itself, with any exit code or signal.
    Finished,
    /// Compilation failed; the compiler's messages are in `stderr`.
    NotCompiled,
    /// The program exceeded its time limit.
    TimedOut,
    /// The program exceeded its memory limit.
    MemoryExceeded,
    /// The program exceeded its output limit.
    OutputExceeded,
    /// The program exceeded its limit of file sizes or of the number of files.
    FilesExceeded,
    /// The program exceeded its limit of processes.
    ProcessesExceeded,
    /// A client cancelled the job.
    Cancelled,
    /// The program could not be run, for this reason.
    Failed(String),
}

impl JobOutcome {
    /// Returns the outcome as one word, as in JSON and in messages.
    pub fn word(&self) -> &'static str {
        match self {
            JobOutcome::Finished => "finished",
            JobOutcome::NotCompiled => "not_compiled",
            JobOutcome::TimedOut => "timed_out",
            JobOutcome::MemoryExceeded => "memory_exceeded",
            JobOutcome::OutputExceeded => "output_exceeded",
            JobOutcome::FilesExceeded => "files_exceeded",
            JobOutcome::ProcessesExceeded => "processes_exceeded",
            JobOutcome::Cancelled => "cancelled",
            JobOutcome::Failed(_) => "failed",
        }
    }
}

/// Result of an ended job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub outcome: JobOutcome,
    /// Exit code, if the program ran and no signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended the program.
    pub signal: Option<i32>,
    /// Standard output of the program.
    pub stdout: Bytes,
    /// Standard error of the program, or output of the compiler if it failed.
    pub stderr: Bytes,
    /// Duration of the compilation in milliseconds; 0 if nothing is compiled.
    pub compile_ms: u64,
    /// Duration of the program in milliseconds.
    pub run_ms: u64,
    /// Peak memory of the program in KiB.
    pub memory_peak_kib: u64,
}

impl End {
    /// Returns an end with an outcome and nothing else.
    pub fn bare(outcome: JobOutcome) -> End {
        End {
            outcome,
            exit_code: None,
            signal: None,
            stdout: Bytes::new(),
            stderr: Bytes::new(),
            compile_ms: 0,
            run_ms: 0,
            memory_peak_kib: 0,
        }
    }

    /// Returns the size of its output in bytes.
    pub fn bytes(&self) -> usize {
        self.stdout.len() + self.stderr.len()
    }
}

/// A change of the jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Submits a job: [`Answer::Submitted`].
    Submit(Request),
    /// Registers a worker process. Jobs of an earlier process of the same node are queued again.
    Join {
        /// Id of the node, and a uuid that is new for each of its processes.
        worker: Identity,
        /// Number of jobs that it runs concurrently.
        slots: u64,
        /// Languages that it has.
        runtimes: BTreeSet<String>,
        /// Why it has no language, if the reason is known; shown to clients whose language is missing.
        trouble: Option<String>,
    },
    /// Removes a worker process. Ignored if another process of the node has joined since.
    Leave {
        worker: Identity,
        /// `true`: the leader declares it lost, which may count against its jobs. `false`: it leaves by itself.
        is_lost: bool,
    },
    /// Reports the end of an attempt. Accepted only if the job is still assigned to this worker, in this attempt.
    End {
        job: JobId,
        /// The worker that reports.
        worker: Identity,
        attempt: u32,
        end: End,
    },
    /// Cancels a job on behalf of a client.
    Cancel { job: JobId },
    /// Reports that the sandbox of an attempt did not start: the job is queued again, for another worker if there is
    /// one. Accepted only if the job is still assigned to this worker, in this attempt.
    GiveBack {
        job: JobId,
        /// The worker that reports.
        worker: Identity,
        attempt: u32,
        /// Why the sandbox did not start.
        why: String,
    },
    /// Reports the output of an attempt that was stopped because its job was cancelled or is assigned to another
    /// worker.
    Printed {
        job: JobId,
        /// The worker that reports.
        worker: Identity,
        attempt: u32,
        stdout: Bytes,
        stderr: Bytes,
    },
}

impl Command {
    /// Encodes the command without the service's routing byte.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }
}

/// Returns the bytes of the job that a command submits; `None`: it submits none.
pub fn submitted_bytes(command: &[u8]) -> Option<usize> {
    match postcard::from_bytes(command) {
        Ok(Command::Submit(request)) => Some(request.bytes()),
        _ => None,
    }
}

/// Why a command was refused; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No worker, present or recently absent, has the language.
    #[error("no node has the runtime {wanted}; {}", list_runtimes(.there, .trouble.as_deref()))]
    NoRuntime {
        wanted: String,
        there: Vec<String>,
        /// Why a worker has no languages, if there is such a worker.
        trouble: Option<String>,
    },
    /// Too many jobs are queued or running ([`OPEN_MAX`], [`OPEN_BYTES_MAX`]).
    #[error("too many jobs are waiting; try again later")]
    Full,
    /// The command is invalid, for this reason.
    #[error("{0}")]
    Malformed(String),
    /// There is no such job, or it ended and was forgotten.
    #[error("no such job: {0}")]
    NoSuchJob(JobId),
    #[error("job {0} has already ended")]
    HasEnded(JobId),
    /// The job was assigned to another worker, or to another attempt.
    #[error("job {0} is no longer assigned to this worker")]
    NotYours(JobId),
}

/// Returns the part of the message that names the available runtimes.
fn list_runtimes(there: &[String], trouble: Option<&str>) -> String {
    match (there, trouble) {
        ([], None) => "no worker offers any".to_string(),
        ([], Some(trouble)) => format!("there are none: {trouble}"),
        (there, _) => format!("there are: {}", there.join(", ")),
    }
}

/// Reply to a command: the payload of `Reply::Ok`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Submitted(JobId),
    Done,
    /// The command was refused; nothing was changed.
    Refused(Refusal),
}

impl Answer {
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }

    /// Decodes a reply; `None` if the bytes are not a valid one.
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Decodes the reply to [`Query::Glance`]; `None` if the bytes are not a valid one.
pub fn decode_glance(bytes: &[u8]) -> Option<Option<(u32, bool)>> {
    postcard::from_bytes(bytes).ok()
}

/// Decodes the reply to [`Query::List`]; `None` if the bytes are not a valid one.
pub fn decode_list(bytes: &[u8]) -> Option<Vec<(JobId, Job)>> {
    postcard::from_bytes(bytes).ok()
}

/// A query of the jobs. A whole job, which may have megabytes of output, is read from the view that `apply` publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Number of the present attempt of a job, and whether a worker has it: `Option<(u32, bool)>`.
    Glance(JobId),
    /// Jobs with a number below `before`, newest first, at most `limit`, without arguments, input and output, and with
    /// at most [`LIST_FILES_MAX`] file names: `Vec<(JobId, Job)>`.
    List {
        /// Upper bound of the job numbers, exclusive; `None`: from the newest.
        before: Option<JobId>,
        /// At most [`LIST_MAX`].
        limit: u64,
    },
}

/// Maximum number of jobs in one reply to [`Query::List`].
pub const LIST_MAX: u64 = 1000;
/// Maximum number of file names of each job in a list.
pub const LIST_FILES_MAX: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It waits for a worker.
    Queued,
    /// It is assigned to a worker.
    Assigned {
        worker: Identity,
        /// Log time of the assignment.
        since_ms: u64,
    },
    /// It has ended.
    Ended {
        end: Arc<End>,
        /// The worker that ran the last attempt, if there was one.
        worker: Option<NodeId>,
        /// Log time of the end.
        at_ms: u64,
    },
}

/// A job with its request and its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The submitted request.
    pub request: Arc<Request>,
    /// Log time of the submission.
    pub submitted_ms: u64,
    /// Number of attempts so far.
    pub attempt: u32,
    /// Number of workers that were lost while running it, as far as they count ([`LOSS_COUNTS_AFTER_MS`]).
    pub losses: u32,
    /// Turn (`JobTable::turn`) of the last assignment.
    pub given: u64,
    pub state: State,
    /// Attempts that did not end the job, in order.
    pub past: Vec<Arc<PastAttempt>>,
}

impl Job {
    /// Returns its size in bytes.
    pub fn bytes(&self) -> usize {
        self.request.bytes() + self.output_bytes() + self.past.iter().map(|past| past.bytes()).sum::<usize>()
    }

    /// Returns the size of its output in bytes; 0 until it has ended.
    pub fn output_bytes(&self) -> usize {
        match &self.state {
            State::Ended { end, .. } => end.bytes(),
            State::Queued | State::Assigned { .. } => 0,
        }
    }

    /// Returns the nodes on which its sandbox did not start, one item for each failure.
    pub fn setbacks(&self) -> impl Iterator<Item = NodeId> {
        self.past.iter().filter(|past| past.not_started.is_some()).map(|past| past.worker.id)
    }
}

/// An attempt that did not end its job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastAttempt {
    pub attempt: u32,
    /// The worker that had it.
    pub worker: Identity,
    /// Why the sandbox did not start; `None`: the worker was lost or left.
    pub not_started: Option<String>,
    /// The last [`PAST_OUTPUT_BYTES_MAX`] of its standard output, if the worker reported it later.
    pub stdout: Bytes,
    /// The same for standard error.
    pub stderr: Bytes,
}

impl PastAttempt {
    /// Returns a past attempt without output.
    pub(crate) fn of(attempt: u32, worker: Identity, not_started: Option<String>) -> PastAttempt {
        PastAttempt { attempt, worker, not_started, stdout: Bytes::new(), stderr: Bytes::new() }
    }

    /// Returns its size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<PastAttempt>()
            + self.not_started.as_ref().map_or(0, String::len)
            + self.stdout.len()
            + self.stderr.len()
    }
}

/// A node's process that runs jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Id of the node, and a uuid that is new for each of its processes.
    pub who: Identity,
    /// Number of jobs that it runs concurrently.
    pub slots: u64,
    /// Languages that it has.
    pub runtimes: BTreeSet<String>,
    /// Why it has no language, if the reason is known.
    pub trouble: Option<String>,
    /// Jobs that are assigned to it.
    pub running: BTreeSet<JobId>,
    /// Whether it is present: it has joined and not left.
    pub is_here: bool,
    /// Log time at which it left; meaningless while it is present.
    pub left_ms: u64,
    /// Turn of its last command: it joined, or reported on a job.
    pub heard: u64,
    /// Turn of its last assignment or end of a job: the worker with the lowest has been idle longest.
    pub turn: u64,
}
