//! Lists the images that a table names: CSV or JSON Lines, one image on a line. Errors name the line.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crds::uri::Scheme;
use serde_json::Value;

use super::dataset::{Listed, Source};
use super::error::DataError;
use crate::storage::{self, Object, is_remote, scheme};

/// What spreadsheets put before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Reads a CSV table: quoted fields may hold commas and line breaks, blank lines are passed over.
pub(super) fn csv(source: &Source) -> Result<Vec<Listed>, DataError> {
    let path = &source.path;
    let text = read(path)?;
    if text.is_empty() {
        return Err(DataError::empty_file(path));
    }
    let mut lines = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_slice());
    let fault = |error: csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        let reason = match error.kind() {
            csv::ErrorKind::Utf8 { .. } => "is not UTF-8 text".to_owned(),
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("has {len} columns, where the first line has {expected_len}")
            }
            _ => error.to_string(),
        };
        DataError::table(path, line, reason)
    };
    let header = lines.headers().map_err(fault)?.clone();
    let column = |name: &str| {
        let found: Vec<usize> =
            header.iter().enumerate().filter(|(_, column)| *column == name).map(|(at, _)| at).collect();
        match found[..] {
            [at] => Ok(at),
            [] => {
                let columns = header.iter().collect::<Vec<_>>().join(", ");
                let reason = format!("has no column {name:?}; its columns are: {columns}");
                Err(DataError::NoColumn { place: format!("{}, line 1", path.display()), reason })
            }
            _ => Err(DataError::table(path, 1, format!("has more than one column {name:?}"))),
        }
    };
    let image = column(&source.image_column)?;
    // A table to be scored may have no labels at all; whether they are needed is checked for each row.
    let label =
        header.iter().any(|name| name == source.label_column).then(|| column(&source.label_column)).transpose()?;
    let mut rows = Vec::new();
    for record in lines.records() {
        let record = record.map_err(fault)?;
        let line = record.position().map_or(0, |start| {
            // The library's place of a record is before the blank lines that precede it.
            let rest = &text[start.byte() as usize..];
            let blank = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).filter(|byte| **byte == b'\n');
            start.line() + blank.count() as u64
        });
        let class = label.map(|label| record[label].to_owned()).filter(|class| !class.is_empty());
        rows.push(row(path, line, record[image].to_owned(), class)?);
    }
    Ok(rows)
}

/// Reads JSON Lines: an object on each line; blank lines are passed over. A label is a string or a whole number.
pub(super) fn json_lines(source: &Source) -> Result<Vec<Listed>, DataError> {
    let path = &source.path;
    let text = read(path)?;
    if text.is_empty() {
        return Err(DataError::empty_file(path));
    }
    let mut rows = Vec::new();
    for (line, text) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        let fault = |reason: String| DataError::table(path, line, reason);
        let object: serde_json::Map<String, Value> =
            serde_json::from_slice(text).map_err(|error| fault(format!("is not a JSON object: {error}")))?;
        let image = match object.get(&source.image_column) {
            Some(Value::String(image)) => image.clone(),
            Some(other) => return Err(fault(format!("{:?} is {other}, and not a path", source.image_column))),
            None => {
                let fields = object.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                let reason = format!("has no {:?}; its fields are: {fields}", source.image_column);
                return Err(DataError::NoColumn { place: format!("{}, line {line}", path.display()), reason });
            }
        };
        let class = match object.get(&source.label_column) {
            None | Some(Value::Null) => None,
            Some(Value::String(class)) => Some(class.clone()).filter(|class| !class.is_empty()),
            Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Some(number.to_string()),
            Some(other) => {
                return Err(fault(format!("{:?} is {other}, and not a string or a whole number", source.label_column)));
            }
        };
        rows.push(row(path, line, image, class)?);
    }
    Ok(rows)
}

/// Refuses rows without a label, and images that come twice: such a one would be in both parts when a part is held out.
pub(super) fn check_rows(source: &Source, rows: &[Listed]) -> Result<(), DataError> {
    let table = &source.path;
    if !rows.is_empty() && rows.iter().all(|row| row.class.is_none()) {
        let reason = format!("no line has a label in the column {:?}", source.label_column);
        return Err(DataError::NoColumn { place: table.display().to_string(), reason });
    }
    let mut seen: HashMap<&Path, u64> = HashMap::with_capacity(rows.len());
    for row in rows {
        if row.class.is_none() {
            return Err(DataError::table(table, row.line, format!("{} has no label", row.path.display())));
        }
        if let Some(first) = seen.insert(&row.path, row.line) {
            let reason = format!("{} is on line {first} already", row.path.display());
            return Err(DataError::table(table, row.line, reason));
        }
    }
    Ok(())
}

/// Refuses rows whose file isn't there; a store is asked for all names at once. What lies elsewhere than the table, or on a web
/// server, which lists nothing, shows when it is read. Each folder is listed once, which on network storage is far cheaper than a look at each
/// file.
pub(super) fn check_files(table: &Path, root: &Path, rows: &[Listed]) -> Result<(), DataError> {
    if is_remote(root) {
        return check_objects(table, root, rows);
    }
    let mut folders: BTreeMap<PathBuf, Option<BTreeSet<OsString>>> = BTreeMap::new();
    for row in rows.iter().filter(|row| scheme(&row.path).is_none()) {
        let file = root.join(&row.path);
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            return Err(DataError::table(table, row.line, format!("{} names no file", row.path.display())));
        };
        if !folders.contains_key(folder) {
            let names = fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
            let names = match names.map_err(|error| DataError::from_io(folder, error)) {
                Ok(names) => Some(names),
                Err(DataError::Missing { .. }) => None,
                Err(error) => return Err(error),
            };
            folders.insert(folder.to_owned(), names);
        }
        if !folders[folder].as_ref().is_some_and(|names| names.contains(name)) {
            return Err(DataError::table(table, row.line, format!("{} does not exist", file.display())));
        }
    }
    Ok(())
}

fn check_objects(table: &Path, root: &Path, rows: &[Listed]) -> Result<(), DataError> {
    let below: Vec<&Listed> = rows.iter().filter(|row| scheme(&row.path).is_none()).collect();
    let folder_of = |row: &Listed| row.path.parent().unwrap_or(Path::new("")).to_owned();
    let Some(mut common) = below.first().map(|row| folder_of(row)) else { return Ok(()) };
    if scheme(root) == Some(Scheme::Https) {
        return Ok(());
    }
    for row in &below {
        while !row.path.starts_with(&common) {
            common.pop();
        }
    }
    let folder = if common.as_os_str().is_empty() { root.to_owned() } else { root.join(&common) };
    let failed = |error| DataError::from_io(&folder, error);
    let entries = Object::at(&folder).and_then(|folder| folder.map_or(Ok(Vec::new()), |folder| folder.list()));
    let names: BTreeSet<PathBuf> = entries.map_err(failed)?.into_iter().map(|entry| common.join(entry.path)).collect();
    match below.into_iter().find(|row| !names.contains(&row.path)) {
        Some(row) => {
            let reason = format!("{} does not exist", root.join(&row.path).display());
            Err(DataError::table(table, row.line, reason))
        }
        None => Ok(()),
    }
}

pub(super) fn row(table: &Path, line: u64, image: String, class: Option<String>) -> Result<Listed, DataError> {
    match image.as_str() {
        "" => Err(DataError::table(table, line, "names no image")),
        name if name.starts_with("pvc://") => {
            Err(DataError::table(table, line, format!("{name}: a table can't name a claim; nothing would mount it")))
        }
        name if name.contains('\0') => Err(DataError::table(table, line, "the image's path holds a zero byte")),
        _ => Ok(Listed { path: image.into(), class, line }),
    }
}

/// The table's bytes without a byte-order mark.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    let mut text = storage::read(path).map_err(|error| DataError::from_io(path, error))?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(text)
}
