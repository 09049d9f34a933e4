//! What can be asked of the jobs, and what they answer: the types that endpoints, workers and the service share.
//!
//! An endpoint turns what its client sent into a [`Request`]; a worker tells how an attempt went in an [`End`]. Times
//! are log time in milliseconds since 1970, spans are milliseconds of a worker's clock, which nothing is decided by.
//! Not here: what a command changes (`state.rs`), any protocol's spelling (`http/`, `cli/`).

use crate::services::Growth;
use crate::types::{Identity, NodeId};
use serde::{Deserialize, Serialize};
pub use serde_bytes::ByteBuf as Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Number of a job: 1 for the first, then one more for each.
pub type JobId = u64;

/// Bytes of a request: files, input and arguments together.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Files of a request.
pub const FILES_MAX: usize = 256;
/// Bytes of a file's name, of a language's name and of an argument.
pub const NAME_BYTES_MAX: usize = 4096;
/// Bytes of output that an end carries: standard output and standard error together.
pub const OUTPUT_BYTES_MAX: usize = 4 << 20;
/// Jobs that wait or run. More are refused.
pub const OPEN_MAX: usize = 100_000;
/// Bytes of the requests of all those. More are refused.
pub const OPEN_BYTES_MAX: usize = 512 << 20;
/// Bytes of all jobs that have ended: beyond it those that ended first are forgotten before their time.
pub const ENDED_BYTES_MAX: usize = 256 << 20;
/// How often a job's worker may be lost while it runs: one whose workers are lost again and again may be what kills
/// them.
pub const LOSSES_MAX: u32 = 5;
/// A loss counts if the worker gave a sign of life after it got the job, or had it for so long, in milliseconds of log
/// time. When all nodes die at once, each of them may get a job in its turn before the log knows that it is dead: that
/// is not the job's doing.
pub const LOSS_COUNTS_AFTER_MS: u64 = 10_000;
/// How often a job is given away at most, whatever becomes of its workers.
pub const ATTEMPTS_MAX: u32 = 25;
/// How often a job's sandbox may fail to start, on one worker after another, until the job is given up.
pub const SETBACKS_MAX: usize = 6;
/// Bytes of a reason why a sandbox did not start.
pub const REASON_BYTES_MAX: usize = 2048;
/// Bytes of standard output, and of standard error, that are kept of an attempt that did not end the job: the last
/// ones.
pub const PAST_OUTPUT_BYTES_MAX: usize = 64 << 10;
/// A language that only workers have which left so long ago, in milliseconds of log time, counts as unknown.
pub const AWAY_MAX_MS: u64 = 600_000;
/// Bytes of all arguments of a request together: what a system lets a program have.
pub const ARGS_BYTES_MAX: usize = 64 << 10;
/// Number of arguments: empty ones take room as well.
pub const ARGS_MAX: usize = 1000;
/// Parts of a file's name, folders and all, and bytes of each.
pub const NAME_PARTS_MAX: usize = 16;
/// See [`NAME_PARTS_MAX`].
pub const PART_BYTES_MAX: usize = 255;
/// Workers that are remembered. Beyond it the one that left first is forgotten.
pub const WORKERS_MAX: usize = 256;

/// What one attempt may use. A worker takes the smaller of these and its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Time on the wall, in milliseconds.
    pub wall_ms: u64,
    /// Processor time of each process, in milliseconds.
    pub cpu_ms: u64,
    /// Memory, in MiB.
    pub memory_mb: u64,
    /// Standard output and standard error together, in bytes.
    pub output_bytes: u64,
    /// All files that it leaves lying about, in MiB.
    pub files_mb: u64,
    /// Processes and threads at once.
    pub processes: u64,
}

impl Limits {
    /// The smaller of each.
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

/// What a job may use if its request does not say.
pub const LIMITS_USUAL: Limits =
    Limits { wall_ms: 10_000, cpu_ms: 10_000, memory_mb: 256, output_bytes: 1 << 20, files_mb: 64, processes: 64 };
/// The most that a request may ask for.
pub const LIMITS_MOST: Limits = Limits {
    wall_ms: 600_000,
    cpu_ms: 600_000,
    memory_mb: 4096,
    output_bytes: OUTPUT_BYTES_MAX as u64,
    files_mb: 1024,
    processes: 1024,
};

/// What a client wants to have run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Name of the runtime.
    pub language: String,
    /// Name and content of each source file; the first is the one that is run.
    pub files: Vec<(String, Bytes)>,
    /// Standard input.
    pub stdin: Bytes,
    /// Arguments of the program.
    pub args: Vec<String>,
    /// What it may use.
    pub limits: Limits,
    /// How long its end is kept, in milliseconds of log time.
    pub keep_ms: u64,
}

impl Request {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let files: usize = self.files.iter().map(|(name, content)| name.len() + content.len()).sum();
        let args: usize = self.args.iter().map(|arg| size_of::<String>() + arg.len()).sum();
        self.language.len() + files + self.stdin.len() + args
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobOutcome {
    /// It ran to its own end, whatever its exit code or signal.
    Finished,
    /// The compiler refused it: its words are in `stderr`.
    NotCompiled,
    /// It used up its time.
    TimedOut,
    /// It wanted more memory than it may have.
    MemoryExceeded,
    /// It said more than it may.
    OutputExceeded,
    /// It wrote more or larger files than it may.
    FilesExceeded,
    /// It started more processes than it may.
    ProcessesExceeded,
    /// A client took it back.
    Cancelled,
    /// It could not be run, through no fault of its own: the reason.
    Failed(String),
}

impl JobOutcome {
    /// In one word, as it stands in JSON and in lines for people.
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

/// What is left of a job that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How.
    pub outcome: JobOutcome,
    /// Exit code, if it ran and no signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: Bytes,
    /// What it, or the compiler, wrote to standard error.
    pub stderr: Bytes,
    /// Time that compiling took; 0 if nothing is compiled.
    pub compile_ms: u64,
    /// Time that it ran.
    pub run_ms: u64,
    /// The most memory that it had, in KiB.
    pub memory_peak_kib: u64,
}

impl End {
    /// An end of which there is nothing more to tell.
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

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.stdout.len() + self.stderr.len()
    }
}

/// Changes the jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A new job: [`Answer::Submitted`].
    Submit(Request),
    /// A process is ready to work. What an earlier process of the same node had is begun again elsewhere.
    Join {
        /// The node, and an identity that each of its processes draws anew.
        worker: Identity,
        /// Jobs that it runs at once.
        slots: u64,
        /// Languages that it has.
        runtimes: BTreeSet<String>,
        /// Why it has none, if it knows: told to clients that ask for one.
        trouble: Option<String>,
    },
    /// A process works no more. Ignored if another process of the node has joined.
    Leave {
        /// Which.
        worker: Identity,
        /// The leader has lost it; else it says farewell itself, and nothing that it had is to blame.
        is_lost: bool,
    },
    /// An attempt has ended. It counts only if the job is still this worker's and in this attempt.
    End {
        /// Which.
        job: JobId,
        /// Who tells.
        worker: Identity,
        /// Of which attempt.
        attempt: u32,
        /// How it went.
        end: End,
    },
    /// A client takes a job back.
    Cancel {
        /// Which.
        job: JobId,
    },
    /// The program of an attempt never began, through no fault of its own: the job waits again, and goes to another
    /// worker if there is one. It counts only if the job is still this worker's and in this attempt.
    GiveBack {
        /// Which.
        job: JobId,
        /// Who tells.
        worker: Identity,
        /// Which attempt.
        attempt: u32,
        /// What went wrong.
        why: String,
    },
    /// What an attempt had printed until it was stopped: its job was cancelled, or had gone to another worker.
    Printed {
        /// Which.
        job: JobId,
        /// Who tells.
        worker: Identity,
        /// By which attempt.
        attempt: u32,
        /// Standard output.
        stdout: Bytes,
        /// Standard error.
        stderr: Bytes,
    },
}

impl Command {
    /// The bytes that go into the log, without the service's routing byte.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }
}

/// See [`Growth`].
pub fn growth(command: &[u8]) -> Growth {
    match postcard::from_bytes(command) {
        Ok(Command::Submit(_)) => Growth::Adds,
        _ => Growth::Nothing,
    }
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No worker, here or away, has the language.
    #[error("no node has the runtime {wanted}; {}", in_words(.there, .trouble.as_deref()))]
    NoRuntime {
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: Vec<String>,
        /// Why a worker has none at all, if one does not.
        trouble: Option<String>,
    },
    /// Too much waits already.
    #[error("too many jobs are waiting; try again later")]
    Full,
    /// The request makes no sense: what is wrong with it.
    #[error("{0}")]
    Malformed(String),
    /// There is no such job, or its end was kept long enough.
    #[error("no such job: {0}")]
    NoSuchJob(JobId),
    /// It has ended.
    #[error("job {0} has already ended")]
    HasEnded(JobId),
    /// The job was assigned to another worker, or to another attempt.
    #[error("job {0} is no longer assigned to this worker")]
    NotYours(JobId),
}

/// What there is in place of a runtime that is not.
fn in_words(there: &[String], trouble: Option<&str>) -> String {
    match (there, trouble) {
        ([], None) => "no worker offers any".to_string(),
        ([], Some(trouble)) => format!("there are none: {trouble}"),
        (there, _) => format!("there are: {}", there.join(", ")),
    }
}

/// What a command answers: the payload of `Reply::Ok`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The new job's number.
    Submitted(JobId),
    /// Done.
    Done,
    /// Nothing was changed.
    Refused(Refusal),
}

impl Answer {
    /// The bytes of the reply.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }

    /// Reads a reply back; `None` if it is none.
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Reads the reply to [`Query::Glance`] back; `None` if it is none.
pub fn decode_glance(bytes: &[u8]) -> Option<Option<(u32, bool)>> {
    postcard::from_bytes(bytes).ok()
}

/// Reads the reply to [`Query::List`] back; `None` if it is none.
pub fn decode_list(bytes: &[u8]) -> Option<Vec<(JobId, Job)>> {
    postcard::from_bytes(bytes).ok()
}

/// Asks about the jobs. A whole job, which may have megabytes of output, is read from what `apply` publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Attempt and whether a worker has it, of one job: `Option<(u32, bool)>`.
    Glance(JobId),
    /// Jobs from the newest down, from the one before `before` on, at most `limit`, without
    /// arguments, output, and all but the first of their files' names:
    /// `Vec<(JobId, Job)>`.
    List {
        /// `None`: from the newest.
        before: Option<JobId>,
        /// At most [`LIST_MAX`].
        limit: u64,
    },
}

/// Jobs in one answer to [`Query::List`].
pub const LIST_MAX: u64 = 1000;
/// Files of each that a list names.
pub const LIST_FILES_MAX: usize = 4;

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Waits for a worker.
    Queued,
    /// A worker has it, since then.
    Assigned {
        /// Who.
        worker: Identity,
        /// Log time.
        since_ms: u64,
    },
    /// It has ended.
    Ended {
        /// How.
        end: Arc<End>,
        /// The worker that ran the last attempt, if one did.
        worker: Option<NodeId>,
        /// Log time.
        at_ms: u64,
    },
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What was asked for.
    pub request: Arc<Request>,
    /// When, in log time.
    pub submitted_ms: u64,
    /// How often it was begun.
    pub attempt: u32,
    /// How often its worker was lost while it ran.
    pub losses: u32,
    /// Turn in which it was given away last.
    pub given: u64,
    /// How far it is.
    pub state: State,
    /// Attempts before the present one, in order.
    pub past: Vec<Arc<Past>>,
}

impl Job {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.request.bytes() + self.output_bytes() + self.past.iter().map(|past| past.bytes()).sum::<usize>()
    }

    /// Bytes of output of its end.
    pub fn output_bytes(&self) -> usize {
        match &self.state {
            State::Ended { end, .. } => end.bytes(),
            State::Queued | State::Assigned { .. } => 0,
        }
    }

    /// Nodes on which its sandbox did not start, once for each time.
    pub fn setbacks(&self) -> impl Iterator<Item = NodeId> {
        self.past.iter().filter(|past| past.not_started.is_some()).map(|past| past.worker.id)
    }
}

/// An attempt that did not end its job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// Which.
    pub attempt: u32,
    /// Who had it.
    pub worker: Identity,
    /// Why the program never began; `None`: the worker was lost or left.
    pub not_started: Option<String>,
    /// The last [`PAST_OUTPUT_BYTES_MAX`] of what it had printed, if the worker came back to tell.
    pub stdout: Bytes,
    /// The same of standard error.
    pub stderr: Bytes,
}

impl Past {
    /// One of which nothing more is known.
    pub(crate) fn of(attempt: u32, worker: Identity, not_started: Option<String>) -> Past {
        Past { attempt, worker, not_started, stdout: Bytes::new(), stderr: Bytes::new() }
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Past>() + self.not_started.as_ref().map_or(0, String::len) + self.stdout.len() + self.stderr.len()
    }
}

/// A node's process that runs jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// The node, and an identity that each of its processes draws anew.
    pub who: Identity,
    /// Jobs that it runs at once.
    pub slots: u64,
    /// Languages that it has.
    pub runtimes: BTreeSet<String>,
    /// Why it has none, if it knows.
    pub trouble: Option<String>,
    /// Jobs that it has now.
    pub running: BTreeSet<JobId>,
    /// Whether it is there.
    pub is_here: bool,
    /// Log time at which it left, if it is not.
    pub left_ms: u64,
    /// Turn of its last sign of life: it joined, or told an end.
    pub heard: u64,
    /// Turn in which it last got or ended a job: the lowest has been idle longest.
    pub turn: u64,
}
