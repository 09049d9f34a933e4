//! First words of a connection.
