//! Shows each token that SQLite's full-text module FTS5 takes from a text to a function, which may stop it.
//!
//! FTS5 tokenizes a text of any length within one instruction of SQLite's virtual machine, calls no progress handler
//! meanwhile, and has no safe interface for tokenizers in `rusqlite`. [`install`] registers FTS5's own tokenizers once
//! more, under their own names, with a function in front of them that passes each token to the watcher of [`watch`]
//! before FTS5 gets it. The constructors stay SQLite's: FTS5 recognises the trigram tokenizer by its constructor when
//! it answers LIKE from an index.
//!
//! Limit: a table that is created without `tokenize =` uses the tokenizer that SQLite registered first, which has no
//! watcher. Name the tokenizer, and check that a query on the table calls the watcher.

use rusqlite::{Connection, ffi};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

/// What FTS5 is about to work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// A text of so many bytes, before it is cut into tokens.
    Text(usize),
    /// A token, after case folding and stemming.
    Token(&'a [u8]),
}

/// Is called with each text and each of its tokens. `false`: the text is abandoned, and the statement fails
/// with `SQLITE_ABORT`. The transaction stays open, as it would not after `SQLITE_INTERRUPT`. FTS5 keeps the tokens
/// before that one until a savepoint from before the statement is rolled back to: the caller must have one.
pub type Watcher = Box<dyn FnMut(Seen<'_>) -> bool>;

type PassToken = unsafe extern "C" fn(*mut c_void, c_int, *const c_char, c_int, c_int, c_int) -> c_int;
type Tokenize =
    unsafe extern "C" fn(*mut ffi::Fts5Tokenizer, *mut c_void, c_int, *const c_char, c_int, Option<PassToken>) -> c_int;
type TokenizeWithLocale = unsafe extern "C" fn(
    *mut ffi::Fts5Tokenizer,
    *mut c_void,
    c_int,
    *const c_char,
    c_int,
    *const c_char,
    c_int,
    Option<PassToken>,
) -> c_int;

thread_local! {
    /// The watcher of the statement that runs on this thread.
    static WATCHER: Cell<Option<Watcher>> = const { Cell::new(None) };
}

/// SQLite's own functions behind the three tokenizers of the older interface, and behind `porter`. They are the same
/// for all connections of the process.
static TOKENIZE: [OnceLock<Tokenize>; 3] = [const { OnceLock::new() }; 3];
static PORTER: OnceLock<TokenizeWithLocale> = OnceLock::new();

/// Runs `work`, and meanwhile calls `watcher` for each text that FTS5 cuts into tokens on this thread, in documents and
/// in queries, on connections with [`install`].
pub fn watch<T>(watcher: Watcher, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Watcher>);
    impl Drop for Restore {
        fn drop(&mut self) {
            WATCHER.set(self.0.take());
        }
    }
    let _restore = Restore(WATCHER.replace(Some(watcher)));
    work()
}

/// Has FTS5 on this connection use the watched tokenizers wherever one is named: `unicode61`, `ascii`, `trigram`,
/// `porter`.
///
/// # Errors
/// This SQLite has no FTS5, or none of these tokenizers.
pub fn install(conn: &Connection) -> rusqlite::Result<()> {
    let api = fts5_api(conn)?;
    let names = [(c"unicode61", tokenize::<0> as Tokenize), (c"ascii", tokenize::<1>), (c"trigram", tokenize::<2>)];
    for ((name, watched), own) in names.into_iter().zip(&TOKENIZE) {
        let mut tokenizer = ffi::fts5_tokenizer { xCreate: None, xDelete: None, xTokenize: None };
        let mut context = null_mut();
        // SAFETY: `api` comes from this connection, which is borrowed and stays open. FTS5 copies what `tokenizer`
        // holds. The context is FTS5's own and goes back to the constructor that it belongs to.
        unsafe {
            let find = (*api).xFindTokenizer.ok_or(rusqlite::Error::InvalidQuery)?;
            check(find(api, name.as_ptr(), &raw mut context, &raw mut tokenizer))?;
            own.get_or_init(|| tokenizer.xTokenize.expect("each of FTS5's tokenizers has this function"));
            tokenizer.xTokenize = Some(watched);
            let create = (*api).xCreateTokenizer.ok_or(rusqlite::Error::InvalidQuery)?;
            check(create(api, name.as_ptr(), context, &raw mut tokenizer, None))?;
        }
    }
    let mut found = null_mut();
    let mut context = null_mut();
    // SAFETY: as above. `found` points into FTS5's list, from which nothing is removed; it is copied, not changed.
    unsafe {
        let find = (*api).xFindTokenizer_v2.ok_or(rusqlite::Error::InvalidQuery)?;
        check(find(api, c"porter".as_ptr(), &raw mut context, &raw mut found))?;
        let mut porter = *found;
        PORTER.get_or_init(|| porter.xTokenize.expect("each of FTS5's tokenizers has this function"));
        porter.xTokenize = Some(tokenize_with_locale);
        let create = (*api).xCreateTokenizer_v2.ok_or(rusqlite::Error::InvalidQuery)?;
        check(create(api, c"porter".as_ptr(), context, &raw mut porter, None))
    }
}

/// FTS5's table of functions for this connection, as its documentation says to ask for it.
fn fts5_api(conn: &Connection) -> rusqlite::Result<*mut ffi::fts5_api> {
    const POINTER_TYPE: &CStr = c"fts5_api_ptr";
    let mut api: *mut ffi::fts5_api = null_mut();
    // SAFETY: the handle is that of an open connection. The statement is finalized before this function returns, so
    // that the pointer to `api` that is bound to it does not outlive `api`. The type's name is static.
    unsafe {
        let mut statement = null_mut();
        let sql = c"SELECT fts5(?1)";
        check(ffi::sqlite3_prepare_v2(conn.handle(), sql.as_ptr(), -1, &raw mut statement, null_mut()))?;
        ffi::sqlite3_bind_pointer(statement, 1, (&raw mut api).cast(), POINTER_TYPE.as_ptr(), None);
        ffi::sqlite3_step(statement);
        check(ffi::sqlite3_finalize(statement))?;
    }
    if api.is_null() { Err(rusqlite::Error::InvalidQuery) } else { Ok(api) }
}

fn check(code: c_int) -> rusqlite::Result<()> {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)) }
}

/// What FTS5 wanted to be called with, and who is called first.
struct Watched {
    watcher: Watcher,
    context: *mut c_void,
    pass: Option<PassToken>,
}

/// Calls `run` with the context and function to which it must pass its tokens. While it runs there is no watcher, so
/// that a tokenizer in a tokenizer (`porter`) is watched once.
fn with_watcher(
    bytes: c_int,
    context: *mut c_void,
    pass: Option<PassToken>,
    run: impl FnOnce(*mut c_void, Option<PassToken>) -> c_int,
) -> c_int {
    let Some(mut watcher) = WATCHER.take() else { return run(context, pass) };
    let goes_on = watcher(Seen::Text(usize::try_from(bytes).unwrap_or(0)));
    let mut watched = Watched { watcher, context, pass };
    let code = if goes_on { run((&raw mut watched).cast(), Some(pass_on)) } else { ffi::SQLITE_ABORT };
    WATCHER.set(Some(watched.watcher));
    code
}

unsafe extern "C" fn pass_on(
    context: *mut c_void,
    flags: c_int,
    token: *const c_char,
    bytes: c_int,
    start: c_int,
    end: c_int,
) -> c_int {
    // SAFETY: `with_watcher` gave this pointer to the tokenizer, which hands it back during the call, on this thread;
    // nothing else refers to what it points at meanwhile.
    let watched = unsafe { &mut *context.cast::<Watched>() };
    let length = usize::try_from(bytes).unwrap_or(0);
    let seen = if token.is_null() || length == 0 {
        &[]
    } else {
        // SAFETY: by FTS5's interface a tokenizer passes a pointer to `bytes` bytes.
        unsafe { std::slice::from_raw_parts(token.cast::<u8>(), length) }
    };
    if !(watched.watcher)(Seen::Token(seen)) {
        return ffi::SQLITE_ABORT;
    }
    match watched.pass {
        // SAFETY: these are FTS5's own function and context, with the arguments as they came.
        Some(pass) => unsafe { pass(watched.context, flags, token, bytes, start, end) },
        None => ffi::SQLITE_OK,
    }
}

unsafe extern "C" fn tokenize<const N: usize>(
    tokenizer: *mut ffi::Fts5Tokenizer,
    context: *mut c_void,
    flags: c_int,
    text: *const c_char,
    bytes: c_int,
    pass: Option<PassToken>,
) -> c_int {
    let Some(own) = TOKENIZE[N].get() else { return ffi::SQLITE_ERROR };
    // SAFETY: the tokenizer was made by the constructor that belongs to `own`; all else is passed on as it came, and
    // `pass_on` goes together with the context that `with_watcher` makes.
    with_watcher(bytes, context, pass, |context, pass| unsafe { own(tokenizer, context, flags, text, bytes, pass) })
}

unsafe extern "C" fn tokenize_with_locale(
    tokenizer: *mut ffi::Fts5Tokenizer,
    context: *mut c_void,
    flags: c_int,
    text: *const c_char,
    bytes: c_int,
    locale: *const c_char,
    locale_bytes: c_int,
    pass: Option<PassToken>,
) -> c_int {
    let Some(own) = PORTER.get() else { return ffi::SQLITE_ERROR };
    with_watcher(bytes, context, pass, |context, pass| {
        // SAFETY: as in `tokenize`.
        unsafe { own(tokenizer, context, flags, text, bytes, locale, locale_bytes, pass) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// The tokens seen while `sql` runs, at most `most` of them, and how it ended.
    fn seen(conn: &Connection, sql: &str, most: usize) -> (Vec<String>, rusqlite::Result<()>) {
        let tokens = Rc::new(RefCell::new(Vec::new()));
        let own = Rc::clone(&tokens);
        let watcher = Box::new(move |seen: Seen<'_>| {
            if let Seen::Token(token) = seen {
                own.borrow_mut().push(String::from_utf8_lossy(token).into_owned());
            }
            own.borrow().len() < most
        });
        let done = watch(watcher, || conn.execute_batch(sql));
        (tokens.take(), done)
    }

    fn open() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        install(&conn).unwrap();
        conn
    }

    #[test]
    fn each_token_of_each_tokenizer_is_seen_once() {
        let conn = open();
        for (tokenizer, expected) in [
            ("unicode61", vec!["running", "ete"]),
            ("ascii", vec!["running", "Été"]),
            ("porter", vec!["run", "et"]),
            ("porter ascii", vec!["run", "Été"]),
            ("trigram", vec!["run", "unn", "nni", "nin", "ing", "ng ", "g é", " ét", "été"]),
        ] {
            conn.execute_batch(&format!("CREATE VIRTUAL TABLE f USING fts5(a, tokenize = '{tokenizer}')")).unwrap();
            let (tokens, done) = seen(&conn, "INSERT INTO f VALUES('Running Été')", usize::MAX);
            assert_eq!((tokens, done), (expected.iter().map(ToString::to_string).collect(), Ok(())), "{tokenizer}");
            let count: i64 = conn.query_row("SELECT count(*) FROM f('running')", [], |row| row.get(0)).unwrap();
            assert_eq!(count, 1, "{tokenizer}");
            let (tokens, _) = seen(&conn, "DELETE FROM f; DROP TABLE f", usize::MAX);
            assert_eq!(tokens.len(), expected.len(), "{tokenizer}");
        }
    }

    #[test]
    fn a_watcher_can_abort_the_statement() {
        let conn = open();
        conn.execute_batch("CREATE VIRTUAL TABLE f USING fts5(a, tokenize = 'porter')").unwrap();
        conn.execute_batch("BEGIN; INSERT INTO f VALUES('before')").unwrap();
        let (tokens, done) = seen(&conn, "SAVEPOINT s; INSERT INTO f VALUES('one two three four')", 2);
        assert_eq!(tokens, ["on", "two"]);
        assert_eq!(done.unwrap_err().sqlite_error_code(), Some(rusqlite::ErrorCode::OperationAborted));
        conn.execute_batch("ROLLBACK TO s; RELEASE s; COMMIT; INSERT INTO f(f) VALUES('integrity-check')").unwrap();
        let found = |word| conn.query_row("SELECT count(*) FROM f(?1)", [word], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((found("before"), found("one")), (1, 0));
    }

    #[test]
    fn without_a_watcher_all_is_as_before() {
        let conn = open();
        install(&conn).unwrap();
        conn.execute_batch("CREATE VIRTUAL TABLE f USING fts5(a, tokenize = trigram); INSERT INTO f VALUES('abcdef')")
            .unwrap();
        let plan: String =
            conn.query_row("EXPLAIN QUERY PLAN SELECT * FROM f WHERE a LIKE '%cde%'", [], |row| row.get(3)).unwrap();
        assert!(plan.contains("INDEX 0:L0"), "LIKE is answered from the index: {plan}");
        let count: i64 = conn.query_row("SELECT count(*) FROM f WHERE a LIKE '%cde%'", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 1);
    }

    #[test]
    fn a_table_without_a_named_tokenizer_is_not_watched() {
        let conn = open();
        conn.execute_batch("CREATE VIRTUAL TABLE f USING fts5(a)").unwrap();
        assert_eq!(seen(&conn, "INSERT INTO f VALUES('one two')", 1), (Vec::new(), Ok(())));
    }
}
