//! What can be asked of the chat, and what it answers: the types that endpoints and the service share.
//!
//! Whoever asks for anything but an account or a log-in shows a token; only its hash is ever in the log. Times are log time in
//! milliseconds since 1970. A *position* counts everything that happens in the chat: a reader that knows it can be told what it
//! missed. A *number* counts the messages of one conversation, from 1.
//! Not here: what a command changes (`state.rs`), JSON (`http/chat/`).

use crate::services::Growth;
use serde::{Deserialize, Serialize};

/// Number of an account: 1 for the first, never given again.
pub type AccountId = u64;
/// Number of a conversation: 1 for the first, never given again.
pub type ConversationId = u64;
/// SHA-256 of a log-in token.
pub type TokenHash = [u8; 32];

/// Characters of an account's or room's name.
pub const NAME_CHARS_MAX: usize = 32;
/// Bytes of a name's key: folding may make a name longer.
pub const KEY_BYTES_MAX: usize = 512;
/// Bytes of a message: some pages of text. Longer things are files, which a chat is not for.
pub const TEXT_BYTES_MAX: usize = 8 << 10;
/// Bytes of a client's own id of a message; a UUID has 36.
pub const CLIENT_ID_BYTES_MAX: usize = 64;
/// Client ids that are remembered for each sender: a client has few messages on the way at once.
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
/// Log-ins of one account that stand at once. Beyond it the one that ends first goes.
pub const TOKENS_MAX: usize = 32;
/// Messages kept in one conversation. Beyond it the oldest goes.
pub const MESSAGES_MAX: u64 = 10_000;
/// Bytes that a message takes beside its text, in memory: what the two limits below count for each.
pub const MESSAGE_BYTES: usize = 256;
/// Bytes of all messages of one conversation. Beyond it the oldest go.
pub const TALK_BYTES_MAX: usize = 16 << 20;
/// Bytes of all messages. More are refused.
pub const BYTES_MAX: usize = 512 << 20;
/// Rows of a page.
pub const PAGE_MAX: u64 = 200;
/// Conversations that somebody left and that are remembered, so that a device which was away hears of it.
pub const LEFT_MAX: usize = 100;
/// Log-ins that may fail before the next has to wait.
pub const FAILURES_FREE: u32 = 5;
/// How long a try without an end takes a place, in milliseconds: the node that compared the password may have died.
pub const TRY_MS_MAX: u64 = 10_000;
/// The first wait, in milliseconds; each further failure doubles it.
pub const WAIT_MS_MIN: u64 = 1_000;
/// The longest wait, in milliseconds.
pub const WAIT_MS_MAX: u64 = 300_000;
/// Failures are forgotten after so long without one, in milliseconds.
pub const FAILURES_KEPT_MS: u64 = 3_600_000;
/// Names without an account whose failures are counted. Beyond it the one that is oldest is forgotten.
pub const STRANGERS_MAX: usize = 4_096;
/// How long a log-in may last, in milliseconds.
pub const TOKEN_MS_MAX: u64 = 366 * 86_400_000;

/// A name as its owner wrote it, and the key under which it is found: names with one key are one name.
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
    /// The account with this key; the conversation begins if there is none yet.
    Account(String),
    /// The room with this key, which the sender is in.
    Room(String),
}

impl Target {
    /// Bytes that differ for different targets.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }
}

/// Changes something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Makes an account and logs it in.
    Create {
        /// Free still.
        name: Name,
        /// Of its password.
        hash: String,
        /// Of the first log-in.
        token: TokenHash,
        /// How long that lasts.
        token_ms: u64,
    },
    /// Somebody is about to try a password. It takes one of the few places there are until its end is known, so that many
    /// tries at once are no way round the wait.
    TryLogIn {
        /// Key of the name, whether there is such an account or not.
        key: String,
    },
    /// The password was right.
    LogIn {
        /// Whose.
        account: AccountId,
        /// The hash that it was compared with: a log-in to what is no longer the account is refused.
        hash: String,
        /// Of the new log-in.
        token: TokenHash,
        /// How long it lasts.
        token_ms: u64,
    },
    /// Ends this log-in, or all of the account.
    LogOut {
        /// Which.
        token: TokenHash,
        /// All of them.
        everywhere: bool,
    },
    /// Deletes the account. Its messages stay.
    Delete {
        /// Whose.
        token: TokenHash,
    },
    /// Begins a conversation with one other, or finds it.
    Direct {
        /// Who asks.
        token: TokenHash,
        /// Key of the other's name.
        with: String,
    },
    /// Makes a room; its maker is its first member.
    MakeRoom {
        /// Who asks.
        token: TokenHash,
        /// Free still.
        name: Name,
    },
    /// Becomes a member of a room; once more changes nothing.
    Join {
        /// Who asks.
        token: TokenHash,
        /// Which.
        room: ConversationId,
    },
    /// Leaves a room. One that is empty is gone.
    Leave {
        /// Who asks.
        token: TokenHash,
        /// Which.
        room: ConversationId,
    },
    /// Says something.
    Send {
        /// Who.
        token: TokenHash,
        /// Where.
        to: Target,
        /// What.
        text: String,
        /// The client's own name for this message: the second one under it is not delivered.
        client_id: Option<String>,
    },
    /// Takes a message of one's own back: what it said is gone, its number stays.
    Erase {
        /// Who.
        token: TokenHash,
        /// Where.
        conversation: ConversationId,
        /// Which.
        number: u64,
    },
    /// Has read up to here; never goes back.
    Mark {
        /// Who.
        token: TokenHash,
        /// Where.
        conversation: ConversationId,
        /// Up to which message.
        number: u64,
    },
    /// The password was wrong: told before whoever tried it is.
    WrongLogIn {
        /// Key of the name, whether there is such an account or not.
        key: String,
    },
}

/// See [`Growth`]; and whose log-in adds a message, if it does.
pub fn growth(command: &[u8]) -> (Growth, Option<TokenHash>) {
    match postcard::from_bytes(command) {
        Ok(Command::Send { token, .. }) => (Growth::Adds, Some(token)),
        Ok(Command::Create { .. } | Command::MakeRoom { .. } | Command::Direct { .. }) => (Growth::Adds, None),
        _ => (Growth::Nothing, None),
    }
}

impl Command {
    /// The bytes that go into a batch, without the routing byte.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Could not, and changed nothing but what the refusal speaks of.
    Refused(Refusal),
    /// There is an account now, and it is logged in.
    Created {
        /// Its number.
        account: AccountId,
        /// Its stored password hash.
        hash: String,
        /// The log-in that was made with it.
        token: TokenHash,
    },
    /// Compare the password with this, if anything.
    Try(Option<(AccountId, String)>),
    /// Logged in.
    LoggedIn {
        /// As whom.
        account: AccountId,
        /// The name as its owner wrote it.
        name: String,
    },
    /// Nothing more to say.
    Done,
    /// This is the conversation.
    Conversation {
        /// Its number.
        id: ConversationId,
        /// Whether it was there before, or the asker was in it.
        was_there: bool,
    },
    /// Said.
    Sent {
        /// Where.
        conversation: ConversationId,
        /// Its number there.
        number: u64,
        /// The position.
        position: u64,
        /// It had been said before, under the same client id.
        is_repeat: bool,
    },
}

impl Answer {
    /// The bytes of a reply.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }

    /// What [`Answer::encode`] made.
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The token is none, or over.
    #[error("not logged in: this token is unknown or has expired")]
    NotLoggedIn,
    /// The same whether there is such an account or not.
    #[error("wrong name or password")]
    WrongLogIn,
    /// Too many failures, or as many tries under way as might fail.
    #[error("too many login attempts: try again in {} s", retry_ms.div_ceil(1000))]
    Slow {
        /// When.
        retry_ms: u64,
    },
    /// The name is in use.
    #[error("this name is already in use")]
    NameTaken,
    /// No name.
    #[error("{0}")]
    BadName(String),
    /// No text that can be said.
    #[error("{0}")]
    BadText(String),
    /// Too many bytes.
    #[error("a message has at most {TEXT_BYTES_MAX} bytes, this one has {0}")]
    TooLong(u64),
    /// Nobody of this name.
    #[error("no such account")]
    NoSuchAccount,
    /// No such room.
    #[error("no such room")]
    NoSuchRoom,
    /// Nothing under this number that the asker may see.
    #[error("no such conversation")]
    NoSuchConversation,
    /// Nothing under this number.
    #[error("no such message")]
    NoSuchMessage,
    /// Join first.
    #[error("you are not in this room: join it first")]
    NotMember,
    /// Somebody else's message.
    #[error("only its sender can delete a message")]
    NotYours,
    /// Nobody would read it.
    #[error("the other person has deleted the account")]
    OtherIsGone,
    /// Not with oneself.
    #[error("you cannot message yourself")]
    Yourself,
    /// A direct conversation is not left.
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

/// Asks something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Who is this? [`View::Me`].
    Me(TokenHash),
    /// All conversations of the asker, the newest message first: [`View::Inbox`].
    Inbox(TokenHash),
    /// One of them: [`View::Inbox`] with one row.
    One(TokenHash, ConversationId),
    /// A page of messages, in order: [`View::History`].
    History {
        /// Who asks.
        token: TokenHash,
        /// Where.
        conversation: ConversationId,
        /// Only below this number.
        before: Option<u64>,
        /// Only above this number. Without it the newest below `before`.
        after: Option<u64>,
        /// How many at most.
        limit: u64,
    },
    /// Accounts whose key matches, in order: [`View::Names`].
    Accounts(Listing),
    /// Rooms whose key matches, in order: [`View::Names`].
    Rooms(Listing),
    /// Members of a room, in the order of their accounts: [`View::Names`].
    Members {
        /// Who asks.
        token: TokenHash,
        /// Which.
        room: ConversationId,
        /// Only beyond this account.
        after: AccountId,
        /// How many at most.
        limit: u64,
    },
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Who asks.
    pub token: TokenHash,
    /// A glob.
    pub pattern: String,
    /// Only keys beyond this one.
    pub after: String,
    /// How many at most.
    pub limit: u64,
}

/// What a question is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum View {
    /// Could not.
    Refused(Refusal),
    /// Who asks.
    Me {
        /// Number.
        account: AccountId,
        /// Name.
        name: String,
        /// Position of the chat as it stands.
        position: u64,
        /// See [`super::Chat::turn`].
        turn: u64,
    },
    /// Conversations.
    Inbox {
        /// Position at which this holds.
        position: u64,
        /// Newest message first.
        rows: Vec<Row>,
    },
    /// Messages in order.
    History {
        /// Each.
        messages: Vec<Said>,
        /// Number of the oldest that is kept.
        oldest: u64,
        /// Number of the newest.
        newest: u64,
    },
    /// Names with their numbers.
    Names {
        /// Each, in order.
        rows: Vec<Named>,
        /// There may be more.
        is_full: bool,
    },
}

/// One conversation in an inbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Number.
    pub id: ConversationId,
    /// Of the room; else of the other, `None` if that has deleted the account.
    pub name: Option<String>,
    /// The other's account, if it is no room.
    pub with: Option<AccountId>,
    /// Number of members.
    pub members: u64,
    /// Messages after the read mark, without those that were deleted.
    pub unread: u64,
    /// The read mark.
    pub read: u64,
    /// Number of the newest message; 0: nothing was said yet.
    pub newest: u64,
    /// The newest message.
    pub last: Option<Said>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// In its conversation.
    pub number: u64,
    /// When.
    pub at_ms: u64,
    /// By whom.
    pub from: AccountId,
    /// Name of that; `None`: the account is deleted.
    pub name: Option<String>,
    /// What; `None`: its sender took it back.
    pub text: Option<String>,
}

/// One row of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Number.
    pub id: u64,
    /// As its owner wrote it.
    pub name: String,
    /// The key, where a next page begins.
    pub key: String,
    /// Members of a room; 0 for an account.
    pub members: u64,
    /// Whether the asker is in it.
    pub is_mine: bool,
}

impl View {
    /// What a reply to a question holds.
    pub fn decode(bytes: &[u8]) -> Option<View> {
        postcard::from_bytes(bytes).ok()
    }
}
