//! Lists the images that a Parquet file names. Of its columns, the two that matter are read.

use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::basic::Type as Physical;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::{Type, TypePtr};

use super::dataset::{Listed, Source};
use super::error::DataError;
use super::table::{self, row};

/// Reads a Parquet table: a column of texts with the images, and one of texts or whole numbers with the labels.
pub(super) fn parquet(source: &Source) -> Result<Vec<Listed>, DataError> {
    let bytes = table::read(&source.path)?;
    // The library panics where a damaged file contradicts itself.
    catch_unwind(AssertUnwindSafe(|| rows(source, bytes))).unwrap_or_else(|_| {
        let reason = "a damaged Parquet file: the library that reads it gave up on it".to_owned();
        Err(DataError::Layout { path: source.path.clone(), reason })
    })
}

fn rows(source: &Source, bytes: Vec<u8>) -> Result<Vec<Listed>, DataError> {
    let path = &source.path;
    let wrong = |reason: String| DataError::Layout { path: path.clone(), reason };
    if bytes.is_empty() {
        return Err(DataError::empty_file(path));
    }
    let file = SerializedFileReader::new(bytes::Bytes::from(bytes))
        .map_err(|error| wrong(format!("not a Parquet file: {error}")))?;
    let schema = file.metadata().file_metadata().schema();
    let fields = schema.get_fields();
    let find = |name: &str| fields.iter().find(|field| field.name() == name).cloned();
    let image = find(&source.image_column).ok_or_else(|| {
        let columns = fields.iter().map(|field| field.name()).collect::<Vec<_>>().join(", ");
        let reason = format!("has no column {:?}; its columns are: {columns}", source.image_column);
        DataError::NoColumn { place: path.display().to_string(), reason }
    })?;
    // A table to be scored may have no labels at all; whether they are needed is checked for each row.
    let label = find(&source.label_column);
    let wanted: Vec<TypePtr> = [Some(image), label].into_iter().flatten().collect();
    if let Some(nested) =
        wanted.iter().find(|column| !column.is_primitive() || column.get_physical_type() == Physical::INT96)
    {
        return Err(wrong(format!("the column {:?} is none of texts or whole numbers", nested.name())));
    }
    let projection = Type::group_type_builder(schema.name())
        .with_fields(wanted)
        .build()
        .map_err(|error| wrong(format!("its schema can't be read: {error}")))?;
    let records = file.get_row_iter(Some(projection)).map_err(|error| wrong(format!("it can't be read: {error}")))?;
    let mut rows = Vec::new();
    for (line, record) in (1..).zip(records) {
        let record = record.map_err(|error| wrong(format!("row {line} can't be read: {error}")))?;
        let (mut image, mut class) = (String::new(), None);
        for (name, field) in record.get_column_iter() {
            let text = text(field).map_err(|found| {
                DataError::table(path, line, format!("{name:?} is {found}, and not a text or a whole number"))
            })?;
            if *name == source.image_column {
                image = text.unwrap_or_default();
            } else {
                class = text.filter(|class| !class.is_empty());
            }
        }
        rows.push(row(path, line, image, class)?);
    }
    Ok(rows)
}

/// A field as text; none if it is null.
fn text(field: &Field) -> Result<Option<String>, String> {
    Ok(Some(match field {
        Field::Null => return Ok(None),
        Field::Str(text) => text.clone(),
        // Texts that the writer has not marked as such.
        Field::Bytes(bytes) => String::from_utf8(bytes.data().to_vec()).map_err(|_| "of bytes".to_owned())?,
        Field::Byte(number) => number.to_string(),
        Field::Short(number) => number.to_string(),
        Field::Int(number) => number.to_string(),
        Field::Long(number) => number.to_string(),
        Field::UByte(number) => number.to_string(),
        Field::UShort(number) => number.to_string(),
        Field::UInt(number) => number.to_string(),
        Field::ULong(number) => number.to_string(),
        other => return Err(other.to_string()),
    }))
}
