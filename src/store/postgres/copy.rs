//! Rows as `COPY .. (FORMAT BINARY)` takes them: a header, rows of fields with their lengths, a trailer; all numbers big-endian.
//!
//! Only what a sample needs. The fields of a row are written in the order of the statement's columns.

/// Signature, no flags, no extension.
const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// A stream of rows under way.
pub struct Rows {
    bytes: Vec<u8>,
    columns: [u8; 2],
}

impl Rows {
    /// Room for `capacity` bytes; every row has `columns` fields.
    pub fn new(columns: i16, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER.len() + capacity + TRAILER.len());
        bytes.extend_from_slice(HEADER);
        let columns = columns.to_be_bytes();
        Self { bytes, columns }
    }

    /// Begins a row.
    pub fn row(&mut self) -> &mut Self {
        self.bytes.extend_from_slice(&self.columns);
        self
    }

    /// A `BIGINT`.
    pub fn bigint(&mut self, number: i64) -> &mut Self {
        self.field(&number.to_be_bytes())
    }

    /// An `INTEGER`.
    pub fn integer(&mut self, number: i32) -> &mut Self {
        self.field(&number.to_be_bytes())
    }

    /// A `BYTEA` of little-endian floats.
    pub fn floats(&mut self, values: &[f32]) -> &mut Self {
        self.length(size_of_val(values));
        for value in values {
            self.bytes.extend_from_slice(&value.to_le_bytes());
        }
        self
    }

    /// A `BYTEA` that `write` appends.
    pub fn bytes(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        let at = self.bytes.len();
        self.length(0);
        write(&mut self.bytes);
        let length = length_of(self.bytes.len() - at - 4);
        self.bytes[at..at + 4].copy_from_slice(&length);
        self
    }

    /// A `TEXT`, or NULL.
    pub fn maybe_text(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.field(text.as_bytes()),
            None => {
                self.bytes.extend_from_slice(&(-1_i32).to_be_bytes());
                self
            }
        }
    }

    /// All of it.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&TRAILER);
        self.bytes
    }

    fn field(&mut self, content: &[u8]) -> &mut Self {
        self.length(content.len());
        self.bytes.extend_from_slice(content);
        self
    }

    fn length(&mut self, length: usize) {
        self.bytes.extend_from_slice(&length_of(length));
    }
}

fn length_of(length: usize) -> [u8; 4] {
    let length = i32::try_from(length).expect("a field comes from a message of at most 64 KiB");
    length.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_laid_out_as_the_server_reads_them() {
        let mut rows = Rows::new(4, 0);
        rows.row()
            .bigint(258)
            .integer(-2)
            .floats(&[1.0])
            .bytes(|bytes| bytes.extend_from_slice(b"ab"));
        let mut expected = HEADER.to_vec();
        expected.extend_from_slice(&[0, 4]);
        expected.extend_from_slice(&[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 1, 2]);
        expected.extend_from_slice(&[0, 0, 0, 4, 255, 255, 255, 254]);
        expected.extend_from_slice(&[0, 0, 0, 4, 0, 0, 128, 63]);
        expected.extend_from_slice(&[0, 0, 0, 2, b'a', b'b']);
        expected.extend_from_slice(&[255, 255]);
        assert_eq!(rows.finish(), expected);
    }
}
