//! All that this module knows of the node behind it: the methods of [`Handle`], behind a trait that tests can fake.
//!
//! Not here: what the methods do (`node/handle.rs`).

use crate::node::views::chat_feed::ChatReader;
use crate::node::views::status::{EventLine, IntegrityStatus, MonitorFrame};
use crate::node::{
    BackupForm, Handle, Level, MemoryBudget, Metric, NodeRuntimes, Operation, Output, Published, Reservation, SentFile,
    SessionGuard, Slot, SqlRead,
};
use crate::raft::Change;
use crate::services::Reply;
use crate::services::jobs::{Job, JobId};
use crate::services::sessions::Tag;
use crate::services::sql;
use crate::types::{Identity, Index, NodeId, Outcome};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A client connection that counts as load until it is dropped.
pub trait HostSession: Send {
    /// Eight hexadecimal digits.
    fn id(&self) -> String;
    /// Says what the connection turned out to be.
    fn set_kind(&self, kind: &'static str);
}

/// The node behind a server; see [`Handle`] for what each method promises.
#[allow(missing_docs)]
pub trait Host: Send + Sync + 'static {
    /// Setting `host`: accepted in `Host` headers beside the loopback names.
    fn bind_host(&self) -> String;
    /// Setting `service_port`: the redirector's.
    fn front_port(&self) -> u16;
    /// Setting `request_timeout_ms`.
    fn request_timeout(&self) -> Duration;
    fn identity(&self) -> Identity;
    fn frame(&self) -> Arc<Published>;
    fn fresh_frame(&self) -> Published;
    fn wait_frame(&self, after: u64, deadline: Instant) -> Option<Arc<Published>>;
    fn events_since(&self, after: u64) -> Vec<EventLine>;
    fn wait_events(&self, after: u64, deadline: Instant) -> Vec<EventLine>;
    fn gossip_json(&self) -> serde_json::Value;
    fn ask(&self, work: Operation, deadline: Instant) -> Outcome<(Index, Reply)>;
    fn wait_key(&self, key: &[u8], revision: u64, deadline: Instant) -> bool;
    fn job(&self, id: JobId) -> Option<Job>;
    fn await_job(&self, job: JobId, at_least: Index, deadline: Instant) -> Outcome<(Index, Reply)>;
    fn live_output(&self, job: JobId, attempt: u32) -> Option<Arc<Output>>;
    fn follow_chat(&self) -> ChatReader;
    fn runtimes(&self) -> Vec<NodeRuntimes>;
    /// How long results are kept, in milliseconds; `None`: this node takes no jobs in.
    fn jobs_keep_ms(&self) -> Option<u64>;
    /// Names of the source that comes without one, by language.
    fn file_name(&self, language: &str) -> Option<String>;
    fn query(&self, query: Vec<u8>, level: Level, deadline: Instant) -> Outcome<(Index, Reply)>;
    fn sql_write(&self, command: &sql::Command, tag: Option<Tag>, deadline: Instant) -> Outcome<(Index, sql::Answer)>;
    fn sql_stage(&self, load: u64, offset: u64, piece: &[u8]) -> Outcome<(Index, sql::Answer)>;
    fn sql_put_in_place(&self, file: SentFile, tag: Option<Tag>, deadline: Instant) -> Outcome<(Index, sql::Answer)>;
    fn sql_unstage(&self, load: u64);
    fn sql_run(
        &self,
        run: sql::Run,
        tag: Option<Tag>,
        times: Option<&mut Vec<Duration>>,
        deadline: Instant,
    ) -> Outcome<(Index, sql::Answer)>;
    fn sql_read(
        &self,
        read: SqlRead,
        times: Option<&mut Vec<Duration>>,
        held: &mut Reservation,
        deadline: Instant,
    ) -> Outcome<(Index, sql::Answer)>;
    fn sql_only_reads(&self, statements: &[sql::Statement], deadline: Instant) -> bool;
    fn sql_backup(
        &self,
        form: BackupForm,
        level: sql::ReadLevel,
        deadline: Instant,
        out: &mut dyn Write,
    ) -> Outcome<Index>;
    fn sql_digest(&self, level: sql::ReadLevel, deadline: Instant) -> Outcome<sql::Digest>;
    fn checkpoint(&self, deadline: Instant) -> Outcome<Index>;
    fn integrity(&self) -> IntegrityStatus;
    fn state_epoch(&self) -> Option<u64>;
    fn change(&self, change: Change, deadline: Instant) -> Outcome<Index>;
    fn transfer(&self, to: Option<NodeId>, deadline: Instant) -> Outcome<NodeId>;
    fn open_session(&self, kind: &'static str, peer: SocketAddr) -> Box<dyn HostSession>;
    fn dispatch(&self) -> Option<(NodeId, String)>;
    fn http_addresses(&self) -> Vec<(NodeId, String)>;
    fn is_stopping(&self) -> bool;
    fn readiness(&self) -> Result<(), Vec<String>>;
    fn metrics(&self) -> Vec<Metric>;
    fn memory(&self) -> &Arc<MemoryBudget>;
    fn spawn_connection(
        &self,
        name: &'static str,
        client: Option<(IpAddr, Arc<TcpStream>)>,
        run: Box<dyn FnOnce(Slot) + Send>,
    ) -> Result<(), String>;

    /// The newest frame's contents.
    fn status(&self) -> Arc<MonitorFrame> {
        self.frame().frame.clone()
    }
}

impl HostSession for SessionGuard {
    fn id(&self) -> String {
        SessionGuard::id(self).to_owned()
    }

    fn set_kind(&self, kind: &'static str) {
        SessionGuard::set_kind(self, kind);
    }
}

impl Host for Handle {
    fn bind_host(&self) -> String {
        self.settings().host.clone()
    }
    fn front_port(&self) -> u16 {
        self.settings().service_port
    }
    fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.settings().request_timeout_ms)
    }
    fn identity(&self) -> Identity {
        Handle::identity(self)
    }
    fn frame(&self) -> Arc<Published> {
        Handle::frame(self)
    }
    fn fresh_frame(&self) -> Published {
        Handle::fresh_frame(self)
    }
    fn wait_frame(&self, after: u64, deadline: Instant) -> Option<Arc<Published>> {
        Handle::wait_frame(self, after, deadline)
    }
    fn events_since(&self, after: u64) -> Vec<EventLine> {
        Handle::events_since(self, after)
    }
    fn wait_events(&self, after: u64, deadline: Instant) -> Vec<EventLine> {
        Handle::wait_events(self, after, deadline)
    }
    fn gossip_json(&self) -> serde_json::Value {
        Handle::gossip_json(self)
    }
    fn ask(&self, work: Operation, deadline: Instant) -> Outcome<(Index, Reply)> {
        Handle::ask(self, work, deadline)
    }
    fn wait_key(&self, key: &[u8], revision: u64, deadline: Instant) -> bool {
        Handle::wait_key(self, key, revision, deadline)
    }
    fn job(&self, id: JobId) -> Option<Job> {
        Handle::job(self, id)
    }
    fn await_job(&self, job: JobId, at_least: Index, deadline: Instant) -> Outcome<(Index, Reply)> {
        Handle::await_job(self, job, at_least, deadline)
    }
    fn live_output(&self, job: JobId, attempt: u32) -> Option<Arc<Output>> {
        Handle::live_output(self, job, attempt)
    }
    fn follow_chat(&self) -> ChatReader {
        Handle::follow_chat(self)
    }
    fn runtimes(&self) -> Vec<NodeRuntimes> {
        Handle::runtimes(self)
    }
    fn jobs_keep_ms(&self) -> Option<u64> {
        self.settings().has_jobs().then_some(self.settings().jobs_keep_ms)
    }
    fn file_name(&self, language: &str) -> Option<String> {
        let runtime = self.settings().runtimes.iter().find(|runtime| runtime.language == language);
        runtime.map(|runtime| runtime.file_name.clone())
    }
    fn query(&self, query: Vec<u8>, level: Level, deadline: Instant) -> Outcome<(Index, Reply)> {
        Handle::query(self, query, level, deadline)
    }
    fn sql_write(&self, command: &sql::Command, tag: Option<Tag>, deadline: Instant) -> Outcome<(Index, sql::Answer)> {
        Handle::sql_write(self, command, tag, deadline)
    }
    fn sql_stage(&self, load: u64, offset: u64, piece: &[u8]) -> Outcome<(Index, sql::Answer)> {
        Handle::sql_stage(self, load, offset, piece)
    }
    fn sql_put_in_place(&self, file: SentFile, tag: Option<Tag>, deadline: Instant) -> Outcome<(Index, sql::Answer)> {
        Handle::sql_put_in_place(self, file, tag, deadline)
    }
    fn sql_unstage(&self, load: u64) {
        Handle::sql_unstage(self, load);
    }
    fn sql_run(
        &self,
        run: sql::Run,
        tag: Option<Tag>,
        times: Option<&mut Vec<Duration>>,
        deadline: Instant,
    ) -> Outcome<(Index, sql::Answer)> {
        Handle::sql_run(self, run, tag, times, deadline)
    }
    fn sql_read(
        &self,
        read: SqlRead,
        times: Option<&mut Vec<Duration>>,
        held: &mut Reservation,
        deadline: Instant,
    ) -> Outcome<(Index, sql::Answer)> {
        Handle::sql_read(self, read, times, held, deadline)
    }
    fn sql_only_reads(&self, statements: &[sql::Statement], deadline: Instant) -> bool {
        Handle::sql_only_reads(self, statements, deadline)
    }
    fn sql_backup(
        &self,
        form: BackupForm,
        level: sql::ReadLevel,
        deadline: Instant,
        out: &mut dyn Write,
    ) -> Outcome<Index> {
        Handle::sql_backup(self, form, level, deadline, out)
    }
    fn sql_digest(&self, level: sql::ReadLevel, deadline: Instant) -> Outcome<sql::Digest> {
        Handle::sql_digest(self, level, deadline)
    }
    fn checkpoint(&self, deadline: Instant) -> Outcome<Index> {
        Handle::checkpoint(self, deadline)
    }
    fn integrity(&self) -> IntegrityStatus {
        Handle::integrity(self)
    }
    fn state_epoch(&self) -> Option<u64> {
        Handle::state_epoch(self)
    }
    fn change(&self, change: Change, deadline: Instant) -> Outcome<Index> {
        Handle::change(self, change, deadline)
    }
    fn transfer(&self, to: Option<NodeId>, deadline: Instant) -> Outcome<NodeId> {
        Handle::transfer(self, to, deadline)
    }
    fn open_session(&self, kind: &'static str, peer: SocketAddr) -> Box<dyn HostSession> {
        Box::new(Handle::open_session(self, kind, peer))
    }
    fn dispatch(&self) -> Option<(NodeId, String)> {
        Handle::dispatch(self)
    }
    fn http_addresses(&self) -> Vec<(NodeId, String)> {
        Handle::http_addresses(self)
    }
    fn is_stopping(&self) -> bool {
        Handle::is_stopping(self)
    }
    fn readiness(&self) -> Result<(), Vec<String>> {
        Handle::readiness(self)
    }
    fn metrics(&self) -> Vec<Metric> {
        Handle::metrics(self)
    }
    fn memory(&self) -> &Arc<MemoryBudget> {
        Handle::memory(self)
    }
    fn spawn_connection(
        &self,
        name: &'static str,
        client: Option<(IpAddr, Arc<TcpStream>)>,
        run: Box<dyn FnOnce(Slot) + Send>,
    ) -> Result<(), String> {
        Handle::spawn_connection(self, name, client, run)
    }
}
