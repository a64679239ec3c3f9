//! CSV and JSON lines. Floats are written with the fewest digits that read back as the same f32.

use super::{Cell, Column, Kind};
use std::fmt::{Display, Write as _};
use std::io::{self, Write};

/// Comma-separated rows under their names.
pub struct Csv<W: Write> {
    columns: Vec<Column>,
    out: csv::Writer<W>,
    field: String,
    begun: bool,
}

impl<W: Write> Csv<W> {
    /// Nothing is written before the first row.
    pub fn new(columns: Vec<Column>, out: W) -> Self {
        Self {
            columns,
            out: csv::Writer::from_writer(out),
            field: String::new(),
            begun: false,
        }
    }

    /// Writes a row.
    pub fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            let names = self.columns.iter().map(|column| &column.name);
            self.out.write_record(names)?;
        }
        for cell in cells {
            match cell {
                Cell::None => self.out.write_field("")?,
                Cell::Int(number) => self.number(number)?,
                Cell::Float(number) => self.number(number)?,
                Cell::Bool(yes) => self.number(yes)?,
                Cell::Text(text) => self.out.write_field(text.as_ref())?,
            }
        }
        Ok(self.out.write_record(None::<&[u8]>)?)
    }

    fn number(&mut self, number: impl Display) -> csv::Result<()> {
        self.field.clear();
        write!(self.field, "{number}").expect("a string takes it");
        self.out.write_field(&self.field)
    }

    /// The target again.
    pub fn finish(self) -> io::Result<W> {
        self.out
            .into_inner()
            .map_err(csv::IntoInnerError::into_error)
    }
}

/// An object a line, every column in it.
pub struct JsonLines<W> {
    /// Each column's name as it stands in the line, with its quotes and colon.
    names: Vec<(Kind, String)>,
    out: W,
    line: Vec<u8>,
}

impl<W: Write> JsonLines<W> {
    /// Nothing stands before the first row.
    pub fn new(columns: Vec<Column>, out: W) -> Self {
        let name = |column: Column| {
            let quoted = serde_json::Value::from(column.name);
            (column.kind, format!("{quoted}:"))
        };
        Self {
            names: columns.into_iter().map(name).collect(),
            out,
            line: Vec::new(),
        }
    }

    /// Writes a row.
    pub fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        for ((kind, name), cell) in self.names.iter().zip(cells) {
            let before = if self.line.is_empty() { b'{' } else { b',' };
            self.line.push(before);
            self.line.extend_from_slice(name.as_bytes());
            let line = &mut self.line;
            match (cell, kind) {
                (Cell::None, _) => serde_json::to_writer(line, &())?,
                (Cell::Int(number), _) => serde_json::to_writer(line, number)?,
                (Cell::Float(number), _) => serde_json::to_writer(line, number)?,
                (Cell::Bool(yes), _) => serde_json::to_writer(line, yes)?,
                // It is JSON already.
                (Cell::Text(text), Kind::Json) => line.extend_from_slice(text.as_bytes()),
                (Cell::Text(text), _) => serde_json::to_writer(line, text.as_ref())?,
            }
        }
        self.line.extend_from_slice(b"}\n");
        self.out.write_all(&self.line)?;
        self.line.clear();
        Ok(())
    }

    /// The target again.
    pub fn finish(self) -> W {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        [("a", Kind::Float), ("b", Kind::Text), ("c", Kind::Json)]
            .map(|(name, kind)| Column {
                name: name.into(),
                kind,
            })
            .into()
    }

    fn rows() -> [[Cell<'static>; 3]; 2] {
        let text = |text: &'static str| Cell::Text(text.into());
        [
            [Cell::Float(0.1), text("x, \"y\"\nz"), text("{\"s\":1}")],
            [Cell::None, text(""), Cell::None],
        ]
    }

    #[test]
    fn csv_reads_back_as_it_was() {
        let mut sheet = Csv::new(columns(), Vec::new());
        rows().iter().for_each(|row| sheet.row(row).unwrap());
        let bytes = sheet.finish().unwrap();
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        assert_eq!(reader.headers().unwrap(), vec!["a", "b", "c"]);
        let read: Vec<Vec<String>> = reader
            .records()
            .map(|row| row.unwrap().iter().map(str::to_owned).collect())
            .collect();
        assert_eq!(read, [["0.1", "x, \"y\"\nz", "{\"s\":1}"], ["", "", ""]]);
    }

    #[test]
    fn floats_keep_their_bits_in_text() {
        for bits in [1_u32, 0x3dcc_cccd, 0x7f7f_ffff, 0x8000_0001, 0x0080_0000] {
            let number = f32::from_bits(bits);
            let mut csv = Csv::new(columns()[..1].to_vec(), Vec::new());
            csv.row(&[Cell::Float(number)]).unwrap();
            let text = String::from_utf8(csv.finish().unwrap()).unwrap();
            let read: f32 = text.lines().nth(1).unwrap().parse().unwrap();
            assert_eq!(read.to_bits(), bits, "{text}");
            let mut json = JsonLines::new(columns()[..1].to_vec(), Vec::new());
            json.row(&[Cell::Float(number)]).unwrap();
            let read: serde_json::Value = serde_json::from_slice(&json.finish()).unwrap();
            let read = read["a"].as_f64().unwrap() as f32;
            assert_eq!(read.to_bits(), bits);
        }
    }

    #[test]
    fn a_json_line_is_an_object_with_the_output_in_it() {
        let mut sheet = JsonLines::new(columns(), Vec::new());
        rows().iter().for_each(|row| sheet.row(row).unwrap());
        let text = String::from_utf8(sheet.finish()).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["c"]["s"], 1);
        assert_eq!(lines[0]["b"], "x, \"y\"\nz");
        assert!(lines[1]["a"].is_null() && lines[1]["c"].is_null());
    }
}
