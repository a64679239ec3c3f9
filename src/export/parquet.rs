//! Apache Parquet, column by column: rows gather until a row group is full, then each column is written.
//!
//! Only the crate's column writer is used. Every column may be null. Holds [`GROUP`] rows, about 30 MiB for eight features.

use super::{Cell, Column, ExportError, Kind};
use ::parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, FloatType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use ::parquet::schema::types::Type;
use std::io::Write;
use std::sync::Arc;

/// Rows of a row group.
const GROUP: usize = 65_536;

/// Rows on their way into a file.
pub struct Sheet<W: Write + Send> {
    columns: Vec<Column>,
    gathered: Vec<Gathered>,
    rows: usize,
    target: Target<W>,
}

/// The file is begun with the first row group.
enum Target<W: Write + Send> {
    Waiting(Option<W>),
    Begun(Box<SerializedFileWriter<W>>),
}

/// One column's part of a row group: values that are there, and which rows have one.
#[derive(Default)]
struct Gathered {
    there: Vec<i16>,
    ints: Vec<i64>,
    floats: Vec<f32>,
    bools: Vec<bool>,
    texts: Vec<ByteArray>,
}

impl<W: Write + Send> Sheet<W> {
    /// Nothing is written before a row group is full.
    pub fn new(columns: Vec<Column>, out: W) -> Self {
        Self {
            gathered: columns.iter().map(|_| Gathered::default()).collect(),
            columns,
            rows: 0,
            target: Target::Waiting(Some(out)),
        }
    }

    /// Takes a row.
    pub fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), ExportError> {
        for (column, cell) in self.gathered.iter_mut().zip(cells) {
            column.take(cell);
        }
        self.rows += 1;
        if self.rows == GROUP {
            self.write_group()?;
        }
        Ok(())
    }

    fn write_group(&mut self) -> Result<(), ExportError> {
        let file = self.target.begin(&self.columns)?;
        let mut group = file.next_row_group()?;
        for (column, gathered) in self.columns.iter().zip(&mut self.gathered) {
            let mut writer = group.next_column()?.expect("the schema has this column");
            std::mem::take(gathered).write(column.kind, &mut writer)?;
            writer.close()?;
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }

    /// Writes the last group and the footer.
    pub fn finish(mut self) -> Result<W, ExportError> {
        if self.rows > 0 {
            self.write_group()?;
        }
        self.target.begin(&self.columns)?;
        match self.target {
            Target::Begun(file) => Ok(file.into_inner()?),
            Target::Waiting(_) => unreachable!("it was begun above"),
        }
    }
}

impl<W: Write + Send> Target<W> {
    fn begin(&mut self, columns: &[Column]) -> Result<&mut SerializedFileWriter<W>, ParquetError> {
        if let Self::Waiting(out) = self {
            let out = out.take().expect("a failed begin ends the export");
            let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
            let writer =
                SerializedFileWriter::new(out, schema(columns)?, Arc::new(properties.build()))?;
            *self = Self::Begun(Box::new(writer));
        }
        match self {
            Self::Begun(file) => Ok(file),
            Self::Waiting(_) => unreachable!("it was begun above"),
        }
    }
}

fn schema(columns: &[Column]) -> Result<Arc<Type>, ParquetError> {
    let field = |column: &Column| {
        let (physical, logical) = match column.kind {
            Kind::Int => (Physical::INT64, None),
            Kind::Time => {
                let utc_ms = LogicalType::timestamp(true, TimeUnit::MILLIS);
                (Physical::INT64, Some(utc_ms))
            }
            Kind::Float => (Physical::FLOAT, None),
            Kind::Bool => (Physical::BOOLEAN, None),
            Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Kind::Json => (Physical::BYTE_ARRAY, Some(LogicalType::Json)),
        };
        let field = Type::primitive_type_builder(&column.name, physical)
            .with_logical_type(logical)
            .with_repetition(Repetition::OPTIONAL)
            .build()?;
        Ok(Arc::new(field))
    };
    let fields: Result<Vec<_>, ParquetError> = columns.iter().map(field).collect();
    let root = Type::group_type_builder("sample").with_fields(fields?);
    Ok(Arc::new(root.build()?))
}

impl Gathered {
    fn take(&mut self, cell: &Cell<'_>) {
        self.there.push(i16::from(!matches!(cell, Cell::None)));
        match cell {
            Cell::None => {}
            Cell::Int(number) => self.ints.push(*number),
            Cell::Float(number) => self.floats.push(*number),
            Cell::Bool(yes) => self.bools.push(*yes),
            Cell::Text(text) => self.texts.push(text.as_ref().into()),
        }
    }

    fn write(
        self,
        kind: Kind,
        writer: &mut SerializedColumnWriter<'_>,
    ) -> Result<(), ParquetError> {
        let there = Some(self.there.as_slice());
        match kind {
            Kind::Int | Kind::Time => {
                let column = writer.typed::<Int64Type>();
                column.write_batch(&self.ints, there, None)?;
            }
            Kind::Float => {
                let column = writer.typed::<FloatType>();
                column.write_batch(&self.floats, there, None)?;
            }
            Kind::Bool => {
                let column = writer.typed::<BoolType>();
                column.write_batch(&self.bools, there, None)?;
            }
            Kind::Text | Kind::Json => {
                let column = writer.typed::<ByteArrayType>();
                column.write_batch(&self.texts, there, None)?;
            }
        }
        Ok(())
    }
}
