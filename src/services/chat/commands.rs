//! The commands, queries and answers of the chat: the types that endpoints and the service share.
//!
//! Every command and query except creating an account and logging in carries a token; only its hash is ever in the log.
//! Times are log time in milliseconds since 1970. A *position* counts all events of the chat: a reader that knows its
//! position can be sent the events it missed. A *number* counts the messages of one conversation, from 1.
//! Not here: what a command changes (`state.rs`), JSON (`http/chat/`).

use serde::{Deserialize, Serialize};

/// Number of an account, from 1; never reused.
pub type AccountId = u64;
/// Number of a conversation, from 1; never reused.
pub type ConversationId = u64;
/// SHA-256 of a log-in token.
pub type TokenHash = [u8; 32];

/// Characters of an account's or room's name.
pub const NAME_CHARS_MAX: usize = 32;
/// Bytes of a name's key: case folding may make a name longer.
pub const KEY_BYTES_MAX: usize = 512;
/// Bytes of a message: some pages of text. Longer content belongs in files, which the chat does not carry.
pub const TEXT_BYTES_MAX: usize = 8 << 10;
/// Bytes of a client id of a message; a UUID has 36.
pub const CLIENT_ID_BYTES_MAX: usize = 64;
/// Client ids that are remembered for each sender: a client has few messages in flight at once.
pub const CLIENT_IDS_MAX: usize = 256;
/// Bytes of a stored password hash (argon2 in PHC form has about 100).
pub const HASH_BYTES_MAX: usize = 256;
/// Accounts. More are refused.
pub const ACCOUNTS_MAX: usize = 100_000;
/// Rooms. More are refused.
pub const ROOMS_MAX: usize = 10_000;
/// Members of a room. More are refused.
pub const MEMBERS_MAX: usize = 10_000;
/// Conversations of one account. More are refused.
pub const CONVERSATIONS_MAX: usize = 1_000;
/// Concurrent log-ins of one account. Beyond it the one that expires first is ended.
pub const TOKENS_MAX: usize = 32;
/// Messages kept in one conversation. Beyond it the oldest is dropped.
pub const MESSAGES_MAX: u64 = 10_000;
/// Memory of a message beside its text, in bytes: the two limits below count it for each message.
pub const MESSAGE_BYTES: usize = 256;
/// Bytes of all messages of one conversation. Beyond it the oldest are dropped.
pub const TALK_BYTES_MAX: usize = 16 << 20;
/// Bytes of all messages. More are refused.
pub const BYTES_MAX: usize = 512 << 20;
/// Rows of a page.
pub const PAGE_MAX: u64 = 200;
/// Conversations that an account has left and that are remembered, so that a device that was offline learns of it.
pub const LEFT_MAX: usize = 100;
/// Log-ins that may fail before the next has to wait.
pub const FAILURES_FREE: u32 = 5;
/// How long an attempt without an outcome takes a place, in milliseconds: the node that compared the password may have
/// died.
pub const TRY_MS_MAX: u64 = 10_000;
/// The first delay, in milliseconds; each further failure doubles it.
pub const WAIT_MS_MIN: u64 = 1_000;
/// The longest delay, in milliseconds.
pub const WAIT_MS_MAX: u64 = 300_000;
/// Failures are forgotten after this time without another one, in milliseconds.
pub const FAILURES_KEPT_MS: u64 = 3_600_000;
/// Names without an account whose failures are counted. Beyond it the oldest is forgotten.
pub const UNKNOWN_NAMES_MAX: usize = 4_096;
/// How long a log-in may last, in milliseconds.
pub const TOKEN_MS_MAX: u64 = 366 * 86_400_000;

/// A name as its owner wrote it, and the key under which it is found: names with equal keys are the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// As it was written.
    pub shown: String,
    /// See [`super::names::key_of`].
    pub key: String,
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A conversation that the sender is in.
    Conversation(ConversationId),
    /// The account with this key; the conversation is created if there is none yet.
    Account(String),
    /// The room with this key, which the sender is in.
    Room(String),
}

impl Target {
    /// Bytes that are distinct for distinct targets.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }
}

/// A change of the chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Creates an account and logs it in.
    Create {
        /// Must be free.
        name: Name,
        hash: String,
        /// Hash of the first log-in's token.
        token: TokenHash,
        /// How long that log-in lasts, in milliseconds.
        token_ms: u64,
    },
    /// Begins a log-in attempt, before the password is compared. It takes one of a few places until its outcome is
    /// known, so that concurrent attempts do not bypass the delay.
    TryLogIn {
        /// Key of the name, whether or not there is such an account.
        key: String,
    },
    /// Logs in: the password was right.
    LogIn {
        account: AccountId,
        /// The hash that was compared: the log-in is refused if the account's hash has changed.
        hash: String,
        /// Hash of the new log-in's token.
        token: TokenHash,
        /// How long the log-in lasts, in milliseconds.
        token_ms: u64,
    },
    /// Ends this log-in, or all log-ins of the account.
    LogOut {
        token: TokenHash,
        /// Whether to end all of them.
        everywhere: bool,
    },
    /// Deletes the account. Its messages stay.
    Delete { token: TokenHash },
    /// Starts a direct conversation with another account, or finds it.
    Direct {
        token: TokenHash,
        /// Key of the other's name.
        with: String,
    },
    /// Creates a room; its creator is the first member.
    MakeRoom {
        token: TokenHash,
        /// Must be free.
        name: Name,
    },
    /// Joins a room; joining again changes nothing.
    Join { token: TokenHash, room: ConversationId },
    /// Leaves a room. An empty room is removed.
    Leave { token: TokenHash, room: ConversationId },
    /// Sent a message in earlier versions, which also marked everything before it as read. Old logs contain it and must
    /// have the same effect on every node.
    Send {
        token: TokenHash,
        to: Target,
        text: String,
        /// The client's id for this message: a second message under the same id is not delivered.
        client_id: Option<String>,
    },
    /// Deletes the sender's own message: its text is removed, its number stays.
    Erase { token: TokenHash, conversation: ConversationId, number: u64 },
    /// Moves the read mark up to here; never back.
    Mark {
        token: TokenHash,
        conversation: ConversationId,
        /// Number of the last message that was read.
        number: u64,
    },
    /// Counts a wrong password: applied before the client gets the answer.
    WrongLogIn {
        /// Key of the name, whether or not there is such an account.
        key: String,
    },
    /// Sends a message. It moves the sender's read mark only if there is nothing unread before it.
    Post {
        token: TokenHash,
        to: Target,
        text: String,
        /// The client's id for this message: a second message under the same id is not delivered.
        client_id: Option<String>,
    },
}

/// Whether a command adds to the chat; and, if it adds a message, the sender's log-in.
pub fn growth(command: &[u8]) -> (bool, Option<TokenHash>) {
    match postcard::from_bytes(command) {
        Ok(Command::Send { token, .. } | Command::Post { token, .. }) => (true, Some(token)),
        Ok(Command::Create { .. } | Command::MakeRoom { .. } | Command::Direct { .. }) => (true, None),
        _ => (false, None),
    }
}

impl Command {
    /// The bytes that go into a batch, without the routing byte.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }
}

/// The result of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The command was refused, and changed nothing except what the refusal describes.
    Refused(Refusal),
    /// The account exists and is logged in.
    Created {
        account: AccountId,
        hash: String,
        /// The log-in that was created with it.
        token: TokenHash,
    },
    /// The attempt may proceed: the account and the hash to compare the password with, if there is such an account.
    Try(Option<(AccountId, String)>),
    LoggedIn {
        account: AccountId,
        /// The name as its owner wrote it.
        name: String,
    },
    /// Done, without further data.
    Done,
    /// The conversation that was created or found.
    Conversation {
        id: ConversationId,
        /// Whether it existed before, or the account was in it.
        was_there: bool,
    },
    Sent {
        conversation: ConversationId,
        number: u64,
        position: u64,
        /// It had been sent before, under the same client id.
        is_repeat: bool,
    },
}

impl Answer {
    /// The bytes of a reply.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }

    /// Decodes what [`Answer::encode`] made.
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Why a command or query was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The token is unknown or has expired.
    #[error("not logged in: this token is unknown or has expired")]
    NotLoggedIn,
    /// The same whether or not there is such an account.
    #[error("wrong name or password")]
    WrongLogIn,
    /// Too many failures, or as many attempts in progress as may fail.
    #[error("too many login attempts: try again in {} s", retry_ms.div_ceil(1000))]
    Slow {
        /// Milliseconds until the next attempt is allowed.
        retry_ms: u64,
    },
    /// The name is in use.
    #[error("this name is already in use")]
    NameTaken,
    #[error("{0}")]
    BadName(String),
    #[error("{0}")]
    BadText(String),
    /// Too many bytes.
    #[error("a message has at most {TEXT_BYTES_MAX} bytes, this one has {0}")]
    TooLong(u64),
    /// No account has this name.
    #[error("no such account")]
    NoSuchAccount,
    #[error("no such room")]
    NoSuchRoom,
    /// No conversation of this number is visible to the account.
    #[error("no such conversation")]
    NoSuchConversation,
    /// No message has this number.
    #[error("no such message")]
    NoSuchMessage,
    /// The account must join the room first.
    #[error("you are not in this room: join it first")]
    NotMember,
    /// The message was sent by another account.
    #[error("only its sender can delete a message")]
    NotYours,
    /// The other account of a direct conversation was deleted.
    #[error("the other person has deleted the account")]
    OtherIsGone,
    /// A direct conversation needs two accounts.
    #[error("you cannot message yourself")]
    Yourself,
    /// A direct conversation cannot be joined or left.
    #[error("this is not a room: only rooms can be joined or left")]
    NotARoom,
    /// The client uses one id for two messages.
    #[error("this client id was used for another message")]
    ClientIdReused,
    /// A limit of the cluster.
    #[error("limit reached: too many {0}")]
    Full(String),
    /// Not a request that an endpoint of this version makes.
    #[error("{0}")]
    Malformed(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// The account of a log-in: [`View::Me`].
    Me(TokenHash),
    /// All conversations of the account, the newest message first: [`View::Inbox`].
    Inbox(TokenHash),
    /// One of them: [`View::Inbox`] with one row.
    One(TokenHash, ConversationId),
    /// A page of messages, in order: [`View::History`].
    History {
        token: TokenHash,
        conversation: ConversationId,
        /// Only below this number.
        before: Option<u64>,
        /// Only above this number. Without it, the newest messages below `before`.
        after: Option<u64>,
        limit: u64,
    },
    /// Accounts whose key matches, in order: [`View::Names`].
    Accounts(Listing),
    /// Rooms whose key matches, in order: [`View::Names`].
    Rooms(Listing),
    /// Members of a room, in the order of their accounts: [`View::Names`].
    Members {
        token: TokenHash,
        room: ConversationId,
        /// Only accounts after this one.
        after: AccountId,
        limit: u64,
    },
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub token: TokenHash,
    /// A glob.
    pub pattern: String,
    /// Only keys after this one.
    pub after: String,
    pub limit: u64,
}

/// The answer to a query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum View {
    Refused(Refusal),
    /// The account of the log-in.
    Me {
        account: AccountId,
        name: String,
        /// Present position of the chat.
        position: u64,
        /// See [`super::Chat::revision`].
        revision: u64,
    },
    Inbox {
        /// Position at which this holds.
        position: u64,
        /// Newest message first.
        rows: Vec<Row>,
    },
    /// Messages, in order.
    History {
        messages: Vec<MessageView>,
        /// Number of the oldest message that is kept.
        oldest: u64,
        /// Number of the newest message.
        newest: u64,
    },
    Names {
        rows: Vec<Named>,
        /// There may be more rows.
        is_full: bool,
    },
}

/// One conversation in an inbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub id: ConversationId,
    /// Name of the room; else of the other account, `None` if that was deleted.
    pub name: Option<String>,
    /// The other account, if it is not a room.
    pub with: Option<AccountId>,
    pub members: u64,
    /// Messages after the read mark, without those that were deleted.
    pub unread: u64,
    /// The read mark.
    pub read: u64,
    /// Number of the newest message; 0: there is none yet.
    pub newest: u64,
    /// The newest message.
    pub last: Option<MessageView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageView {
    pub number: u64,
    /// Log time, in milliseconds.
    pub at_ms: u64,
    pub from: AccountId,
    /// The sender's name; `None`: the account was deleted.
    pub name: Option<String>,
    /// The text; `None`: its sender has deleted it.
    pub text: Option<String>,
}

/// One row of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub id: u64,
    /// As its owner wrote it.
    pub name: String,
    /// The key, after which a next page begins.
    pub key: String,
    /// Members of a room; 0 for an account.
    pub members: u64,
    /// Whether the account is in it.
    pub is_mine: bool,
}

impl View {
    /// Decodes a reply to a query.
    pub fn decode(bytes: &[u8]) -> Option<View> {
        postcard::from_bytes(bytes).ok()
    }
}
