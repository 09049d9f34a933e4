//! Every function, pragma and module of SQLite, with the decision about each; `docs/sql.md` lists the same.
//!
//! What is in no list is refused. A test compares the lists with those that SQLite reports, so that everything new in a
//! later version of SQLite is examined before it can be used: does it depend on the machine, the pages of the file, the
//! history of the connection, or this build?
//!
//! Not here: applying the lists (`authorizer.rs`), functions that replace SQLite's (`functions.rs`, `dates.rs`).

/// Functions whose result depends only on their arguments and the content; those that we replace use the entry's time
/// and the command's seed.
pub const FUNCTIONS: &[&str] = &[
    "->",
    "->>",
    "abs",
    "avg",
    "bm25",
    "changes",
    "char",
    "coalesce",
    "concat",
    "concat_ws",
    "count",
    "cume_dist",
    "current_date",
    "current_time",
    "current_timestamp",
    "date",
    "datetime",
    "dense_rank",
    "first_value",
    "format",
    "fts5_get_locale",
    "fts5_insttoken",
    "glob",
    "group_concat",
    "hex",
    "if",
    "ifnull",
    "iif",
    "instr",
    "json",
    "json_array",
    "json_array_insert",
    "json_array_length",
    "json_error_position",
    "json_extract",
    "json_group_array",
    "json_group_object",
    "json_insert",
    "json_object",
    "json_patch",
    "json_pretty",
    "json_quote",
    "json_remove",
    "json_replace",
    "json_set",
    "json_type",
    "json_valid",
    "jsonb",
    "jsonb_array",
    "jsonb_array_insert",
    "jsonb_extract",
    "jsonb_insert",
    "jsonb_object",
    "jsonb_patch",
    "jsonb_remove",
    "jsonb_replace",
    "jsonb_set",
    "julianday",
    "lag",
    "last_insert_rowid",
    "last_value",
    "lead",
    "length",
    "like",
    "likelihood",
    "likely",
    "lower",
    "ltrim",
    "match",
    "max",
    "min",
    "nth_value",
    "ntile",
    "nullif",
    "octet_length",
    "percent_rank",
    "printf",
    "quote",
    "random",
    "randomblob",
    "rank",
    "replace",
    "round",
    "row_number",
    "rtreecheck",
    "rtreedepth",
    "rtreenode",
    "rtrim",
    "sign",
    "soundex",
    "strftime",
    "string_agg",
    "substr",
    "substring",
    "subtype",
    "sum",
    "time",
    "timediff",
    "total",
    "trim",
    "typeof",
    "unhex",
    "unicode",
    "unistr",
    "unistr_quote",
    "unixepoch",
    "unlikely",
    "upper",
    "zeroblob",
];

/// Functions that depend on how SQLite was built, which may differ during an upgrade of a cluster: for reads only.
pub const FUNCTIONS_OF_THE_BUILD: &[&str] =
    &["fts5_source_id", "sqlite_compileoption_get", "sqlite_compileoption_used", "sqlite_source_id", "sqlite_version"];

/// Functions whose work in one step grows with the square of the number of matches: for reads only.
pub const FUNCTIONS_OF_MATCHES: &[&str] = &["highlight", "snippet"];

/// Functions that access files, depend on the history of the connection, grow without bound, or belong to modules that
/// are not available.
pub const FUNCTIONS_REFUSED: &[&str] = &[
    "fts3_tokenizer",
    "fts5",
    "fts5_locale",
    "jsonb_group_array",
    "jsonb_group_object",
    "load_extension",
    "matchinfo",
    "offsets",
    "optimize",
    "sqlite_log",
    "sqlite_offset",
    "total_changes",
];

/// Pragmas that show the schema.
pub const PRAGMAS: &[&str] =
    &["foreign_key_list", "index_info", "index_list", "index_xinfo", "table_info", "table_xinfo"];
/// Those that show column names, some of which SQLite generates at random for a view: where the log is applied, they
/// are available for tables only.
pub const PRAGMAS_OF_COLUMNS: &[&str] = &["table_info", "table_xinfo"];
/// Pragmas that show a setting, without an argument.
pub const PRAGMAS_BARE: &[&str] =
    &["application_id", "encoding", "foreign_keys", "page_size", "read_uncommitted", "user_version"];
/// Those that may be set: numbers in the file that only users use.
pub const PRAGMAS_SET: &[&str] = &["application_id", "user_version"];
/// Pragmas that depend on the pages of the file, which differ between nodes: for reads only.
pub const PRAGMAS_OF_PAGES: &[&str] =
    &["freelist_count", "integrity_check", "journal_mode", "page_count", "quick_check"];
/// Pragmas that depend on the history of the connection, in their content or order: for reads only.
pub const PRAGMAS_OF_THE_PAST: &[&str] =
    &["collation_list", "foreign_key_check", "function_list", "module_list", "table_list"];
/// Pragmas that depend on how SQLite was built: for reads only.
pub const PRAGMAS_OF_THE_BUILD: &[&str] = &["compile_options", "pragma_list"];
/// Pragmas that change or show settings of the connection, or access files: refused, like everything that is in no list
/// above.
#[cfg(test)]
pub const PRAGMAS_REFUSED: &[&str] = &[
    "analysis_limit",
    "auto_vacuum",
    "automatic_index",
    "busy_timeout",
    "cache_size",
    "cache_spill",
    "case_sensitive_like",
    "cell_size_check",
    "checkpoint_fullfsync",
    "count_changes",
    "data_version",
    "database_list",
    "default_cache_size",
    "defer_foreign_keys",
    "empty_result_callbacks",
    "full_column_names",
    "fullfsync",
    "hard_heap_limit",
    "ignore_check_constraints",
    "incremental_vacuum",
    "journal_size_limit",
    "legacy_alter_table",
    "locking_mode",
    "max_page_count",
    "mmap_size",
    "optimize",
    "query_only",
    "recursive_triggers",
    "reverse_unordered_selects",
    "schema_version",
    "secure_delete",
    "short_column_names",
    "shrink_memory",
    "soft_heap_limit",
    "synchronous",
    "temp_store",
    "temp_store_directory",
    "threads",
    "trusted_schema",
    "wal_autocheckpoint",
    "wal_checkpoint",
    "writable_schema",
];

/// Modules of virtual tables that may be created.
pub const MODULES: &[&str] = &["fts5", "fts5vocab", "rtree", "rtree_i32"];
/// Modules that are tables themselves (table-valued functions): they are not refused.
#[cfg(test)]
pub const TABLES: &[&str] = &["json_each", "json_tree", "jsonb_each", "jsonb_tree"];
/// Modules that show pages or prepared statements, or that are predecessors of those above.
pub const TABLES_REFUSED: &[&str] = &[
    "bytecode",
    "dbstat",
    "fts3",
    "fts3tokenize",
    "fts4",
    "fts4aux",
    "sqlite_dbdata",
    "sqlite_dbpage",
    "sqlite_dbptr",
    "sqlite_stmt",
    "tables_used",
];
