//! Rows as Apache Parquet: each part is a file with one row group, and one file of all takes their column chunks over
//! as they are, without reading a value.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::column::writer::{ColumnCloseResult, ColumnWriter};
use parquet::data_type::ByteArray;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};

use super::{Content, Encoder, Line, Value};

fn schema(encoder: &Encoder) -> parquet::errors::Result<TypePtr> {
    let field = |(name, content): &(String, Content)| {
        let repetition = if *content == Content::Path { Repetition::REQUIRED } else { Repetition::OPTIONAL };
        let physical = if content.is_number() { Physical::FLOAT } else { Physical::BYTE_ARRAY };
        let mut field = Type::primitive_type_builder(name, physical).with_repetition(repetition);
        if physical == Physical::BYTE_ARRAY {
            field = field.with_logical_type(Some(LogicalType::String)).with_converted_type(ConvertedType::UTF8);
        }
        field.build().map(Arc::new)
    };
    let fields = encoder.columns.iter().map(field).collect::<Result<_, _>>()?;
    Type::group_type_builder("rows").with_fields(fields).build().map(Arc::new)
}

fn properties() -> WriterPropertiesPtr {
    Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build())
}

/// The rows as a file of their own.
pub(super) fn part(encoder: &Encoder, lines: &[Line<'_>]) -> io::Result<Vec<u8>> {
    let mut file = SerializedFileWriter::new(Vec::new(), schema(encoder)?, properties())?;
    let mut group = file.next_row_group()?;
    for (_, content) in &encoder.columns {
        let mut column = group.next_column()?.ok_or_else(|| io::Error::other("the schema has fewer columns"))?;
        let values = || lines.iter().map(|line| line.value(*content));
        // 1 where there is a value; a required column has no levels.
        let levels: Vec<i16> = values().map(|value| i16::from(value != Value::Nothing)).collect();
        let levels = (*content != Content::Path).then_some(&levels[..]);
        match column.untyped() {
            ColumnWriter::FloatColumnWriter(writer) => {
                let numbers =
                    values().filter_map(|value| if let Value::Number(number) = value { Some(number) } else { None });
                writer.write_batch(&numbers.collect::<Vec<f32>>(), levels, None)?;
            }
            ColumnWriter::ByteArrayColumnWriter(writer) => {
                let texts = values()
                    .filter_map(|value| if let Value::Text(text) = value { Some(ByteArray::from(text)) } else { None });
                writer.write_batch(&texts.collect::<Vec<ByteArray>>(), levels, None)?;
            }
            _ => return Err(io::Error::other("the schema has a column of another type")),
        }
        column.close()?;
    }
    group.close()?;
    Ok(file.into_inner()?)
}

/// One file with the row groups of all parts.
pub(super) fn assemble(
    encoder: &Encoder,
    parts: impl Iterator<Item = io::Result<Vec<u8>>>,
    file: &mut (dyn Write + Send),
) -> io::Result<()> {
    let mut file = SerializedFileWriter::new(file, schema(encoder)?, properties())?;
    for part in parts {
        let part = Bytes::from(part?);
        let reader = SerializedFileReader::new(part.clone())?;
        for rows in reader.metadata().row_groups() {
            let mut group = file.next_row_group()?;
            for column in rows.columns() {
                let closed = ColumnCloseResult {
                    bytes_written: column.compressed_size() as u64,
                    rows_written: rows.num_rows() as u64,
                    metadata: column.clone(),
                    bloom_filter: None,
                    column_index: None,
                    offset_index: None,
                };
                group.append_column(&part, closed)?;
            }
            group.close()?;
        }
    }
    file.close()?;
    Ok(())
}
