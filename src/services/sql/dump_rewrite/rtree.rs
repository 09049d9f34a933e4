//! The rows of an r-tree out of its shadow tables.
//!
//! `rowid` has a row for each row of the table: its id, the leaf that holds it, and the auxiliary columns. `node` has the
//! nodes: two bytes for the depth of the tree, two for the number of cells, then the cells, each of which is an id of
//! eight bytes and coordinates of four, all big-endian (<https://sqlite.org/rtree.html>, section 5). A node to which a
//! row refers is a leaf; others, and `parent`, only say how leaves are found. So nothing follows a path in the tree,
//! which may be broken or endless.

use super::script::Script;
use super::values::Row;
use crate::services::sql::storage::schema::quoted;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes before the cells of a node.
const HEAD_BYTES: usize = 4;
const ID_BYTES: usize = 8;
const COORDINATE_BYTES: usize = 4;

#[derive(Debug, Default)]
pub struct Rtree<'a> {
    /// Each node's bytes, as hexadecimal digits.
    nodes: BTreeMap<i64, &'a str>,
    rows: Vec<RowOfTree<'a>>,
}

#[derive(Debug)]
struct RowOfTree<'a> {
    id: i64,
    leaf: i64,
    /// The auxiliary columns as they are written, with a comma before each.
    auxiliary: &'a str,
}

impl<'a> Rtree<'a> {
    /// Notes a row of the shadow table `node`. `None`: it is malformed.
    pub fn node(&mut self, values: &'a str) -> Option<()> {
        let mut row = Row::new(values)?;
        let node = row.integer()?;
        self.nodes.insert(node, row.last_blob()?).is_none().then_some(())
    }

    /// Notes a row of the shadow table `rowid`. `None`: it is malformed.
    pub fn row(&mut self, values: &'a str) -> Option<()> {
        let mut row = Row::new(values)?;
        let (id, leaf) = (row.integer()?, row.integer()?);
        self.rows.push(RowOfTree { id, leaf, auxiliary: row.rest()? });
        Some(())
    }

    /// Adds an INSERT for each row of the table.
    ///
    /// # Errors
    /// Rows and leaves do not agree, or the script becomes too long.
    pub fn insert_all(
        &self,
        table: &str,
        coordinates: usize,
        is_integer: bool,
        script: &mut Script,
    ) -> Result<(), String> {
        let damaged = |what: &str| format!("r-tree table {table:.200} of this dump is damaged: {what}");
        let numbers: BTreeSet<i64> = self.rows.iter().map(|row| row.leaf).collect();
        let leaf = |number| Some((number, bytes(self.nodes.get(&number)?)?));
        let leaves: Option<BTreeMap<i64, Vec<u8>>> = numbers.into_iter().map(leaf).collect();
        let leaves = leaves.ok_or_else(|| damaged("a leaf is missing"))?;
        let mut cells = BTreeMap::new();
        for (leaf, node) in &leaves {
            let found = cells_of(node, coordinates).ok_or_else(|| damaged("a leaf has more cells than bytes"))?;
            for (id, coordinates) in found {
                if cells.insert((*leaf, id), coordinates).is_some() {
                    return Err(damaged("a leaf has the same row twice"));
                }
            }
        }
        let name = quoted(table);
        for row in &self.rows {
            let cell = cells.remove(&(row.leaf, row.id)).ok_or_else(|| damaged("a leaf lacks a row"))?;
            let numbers = literals(cell, is_integer).ok_or_else(|| damaged("a coordinate is not a number"))?;
            script.add(&["INSERT INTO ", &name, " VALUES(", &row.id.to_string(), &numbers, row.auxiliary, ")"])?;
        }
        if cells.is_empty() { Ok(()) } else { Err(damaged("a leaf has more rows than the table")) }
    }
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

/// The id and the coordinates of each cell of a node.
fn cells_of(node: &[u8], coordinates: usize) -> Option<impl Iterator<Item = (i64, &[u8])>> {
    let cell_bytes = ID_BYTES + coordinates * COORDINATE_BYTES;
    let (head, cells) = node.split_first_chunk::<HEAD_BYTES>()?;
    let count = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let cells = cells.get(..count * cell_bytes)?.chunks_exact(cell_bytes);
    Some(cells.filter_map(|cell| cell.split_first_chunk().map(|(id, rest)| (i64::from_be_bytes(*id), rest))))
}

/// Coordinates as literals, with a comma before each. The table stores numbers of single precision: each of them is
/// written with all digits that it has as one of double precision. `None`: one is not a number.
fn literals(cell: &[u8], is_integer: bool) -> Option<String> {
    let (coordinates, _) = cell.as_chunks::<COORDINATE_BYTES>();
    let mut text = String::new();
    for bytes in coordinates {
        text.push(',');
        let real = f32::from_be_bytes(*bytes);
        text.push_str(&match (is_integer, real.is_nan()) {
            (true, _) => i32::from_be_bytes(*bytes).to_string(),
            (false, true) => return None,
            (false, false) if real.is_infinite() => format!("{}9e999", if real < 0.0 { "-" } else { "" }),
            (false, false) => format!("{:?}", f64::from(real)),
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::literals;
    use rusqlite::Connection;

    #[test]
    fn a_coordinate_is_read_as_the_number_that_it_was() {
        let conn = Connection::open_in_memory().unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..2_000 {
            let cell: Vec<u8> = (0..40).map(|_| random.u8(..)).collect();
            let Some(text) = literals(&cell, false) else { continue };
            let select = format!("SELECT 0{text}");
            conn.query_row(&select, [], |row| {
                for (place, bytes) in cell.as_chunks().0.iter().enumerate() {
                    let expected = f64::from(f32::from_be_bytes(*bytes));
                    assert_eq!(row.get::<_, f64>(place + 1)?.to_bits(), expected.to_bits(), "{text}");
                }
                Ok(())
            })
            .unwrap();
        }
    }
}
