//! Tables that list images: CSV, JSON Lines, Parquet.

use std::fs;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::json;
use tempfile::TempDir;

use super::{Seed, assert_refused, put};
use crate::data::{DataError, Dataset, Format, Labels, Source, open};
use crate::fault::Fault;

thread_local! {
    static FOLDER: TempDir = folder();
}

/// A folder with the images that the seeds name.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("deep")).expect("a folder");
    for image in ["a.jpg", "b.png", "deep/c.webp"] {
        fs::write(folder.path().join(image), "").expect("a file");
    }
    folder
}

pub(super) fn csv(bytes: &[u8]) -> bool {
    read(bytes, Format::Csv)
}

pub(super) fn json_lines(bytes: &[u8]) -> bool {
    read(bytes, Format::JsonLines)
}

pub(super) fn parquet(bytes: &[u8]) -> bool {
    read(bytes, Format::Parquet)
}

fn read(bytes: &[u8], format: Format) -> bool {
    let classes = ["cat".to_owned(), "dog".to_owned()];
    let optional = list(bytes, format, Labels::Optional(&classes));
    // Where labels are needed, less is read, and the same.
    for labels in [Labels::Discover, Labels::Known(&classes)] {
        match (list(bytes, format, labels), &optional) {
            (Ok(strict), Ok(optional)) => {
                let paths = |data: &Dataset| data.samples.iter().map(|sample| sample.path.clone()).collect::<Vec<_>>();
                assert_eq!(paths(&strict), paths(optional));
                assert!(strict.samples.iter().all(|sample| sample.label.is_some()));
            }
            (Ok(strict), Err(error)) => panic!("{strict:?} is read, and without need of labels: {error}"),
            (Err(error), _) => refused(bytes, format, error),
        }
    }
    match optional {
        Err(error) => {
            refused(bytes, format, error);
            false
        }
        Ok(data) => {
            assert!(!data.samples.is_empty());
            let line = |sample: &crate::data::Sample| {
                let label = sample.label.map(|label| classes[label as usize].as_str());
                json!({"image": sample.path.to_str().expect("a table is text"), "label": label}).to_string() + "\n"
            };
            let lines: String = data.samples.iter().map(line).collect();
            let again = list(lines.as_bytes(), Format::JsonLines, Labels::Optional(&classes));
            assert_eq!(again.expect("what was listed").samples, data.samples);
            true
        }
    }
}

fn list(bytes: &[u8], format: Format, labels: Labels<'_>) -> Result<Dataset, DataError> {
    FOLDER.with(|folder| {
        let path = folder.path().join("table");
        put(&path, bytes);
        open(&Source { format, ..Source::new(path) }, labels)
    })
}

/// That the error names a line that there is, and lies in the table.
fn refused(bytes: &[u8], format: Format, error: DataError) {
    if let (DataError::Table { line, .. }, Format::Csv | Format::JsonLines) = (&error, format) {
        // A lone carriage return ends a line of CSV too.
        let lines = 1 + bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() as u64;
        assert!((1..=lines).contains(line), "{error}, of {lines}");
    }
    // A table may name a folder that is not to be read by everyone.
    if !matches!(error, DataError::Permission { .. }) {
        assert_refused(&Fault::from(error));
    }
}

pub(super) fn csv_seeds() -> Vec<Seed> {
    vec![
        Seed::new("plain", "image,label\na.jpg,cat\nb.png,dog\n"),
        Seed::new(
            "quoted",
            "\"label\", image ,\"more\"\r\n\"c\"\"at\",\"a.jpg\",\"1\n2\"\r\n\r\ndog,deep/c.webp,x\r\n",
        ),
        Seed::new("with a byte-order mark and without labels", "\u{FEFF}image\na.jpg\nb.png"),
        Seed::new("elsewhere", "image,label\ns3://bucket/a.jpg,cat\nfile:///b.png,dog\n/c/../d.png,cat\n../e.png,cat"),
    ]
}

pub(super) fn json_lines_seeds() -> Vec<Seed> {
    vec![
        Seed::new("plain", "{\"image\": \"a.jpg\", \"label\": \"cat\"}\n{\"label\": \"dog\", \"image\": \"b.png\"}\n"),
        Seed::new(
            "numbers",
            "{\"image\":\"a.jpg\",\"label\":0}\r\n\r\n{\"image\":\"deep/c.webp\",\"label\":18446744073709551615}",
        ),
        Seed::new("more", "{\"image\":\"\\u0061.jpg\",\"label\":null,\"box\":[[1.5,-2e3],{\"x\":true}]}\n"),
    ]
}

pub(super) fn parquet_seeds() -> Vec<Seed> {
    let texts = "message t { required binary image (UTF8); optional binary label (UTF8); }";
    let numbers = "message t { required int32 label (UINT_8); required binary image; }";
    let seed = |name, schema, compression, version| {
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_writer_version(version)
            .set_created_by(String::new())
            .build();
        Seed::new(name, table(schema, properties))
    };
    vec![
        seed("texts", texts, Compression::UNCOMPRESSED, WriterVersion::PARQUET_1_0),
        seed("numbers", numbers, Compression::UNCOMPRESSED, WriterVersion::PARQUET_1_0),
        seed("version 2", texts, Compression::UNCOMPRESSED, WriterVersion::PARQUET_2_0),
        seed("snappy", texts, Compression::SNAPPY, WriterVersion::PARQUET_1_0),
        seed("zstd", numbers, Compression::ZSTD(Default::default()), WriterVersion::PARQUET_2_0),
        seed("gzip", texts, Compression::GZIP(Default::default()), WriterVersion::PARQUET_1_0),
        seed("lz4", texts, Compression::LZ4_RAW, WriterVersion::PARQUET_1_0),
    ]
}

fn table(schema: &str, properties: WriterProperties) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).expect("a file");
    let mut group = file.next_row_group().expect("a group");
    while let Some(mut column) = group.next_column().expect("a column") {
        match column.untyped() {
            ColumnWriter::Int32ColumnWriter(numbers) => numbers.write_batch(&[0, 1, 255], None, None),
            ColumnWriter::ByteArrayColumnWriter(texts) => {
                // A column that may lack a value has it at the level 1.
                let has_levels = texts.get_descriptor().max_def_level() > 0;
                let values: &[&str] = if has_levels { &["cat", "dog"] } else { &["a.jpg", "b.png", "deep/c.webp"] };
                let values: Vec<ByteArray> = values.iter().map(|text| ByteArray::from(*text)).collect();
                texts.write_batch(&values, has_levels.then_some(&[1, 0, 1]), None)
            }
            _ => panic!("the schemas have no other columns"),
        }
        .expect("values");
        column.close().expect("a column");
    }
    group.close().expect("a group");
    file.into_inner().expect("a file")
}
