//! Rows as bytes: the same columns in three formats, in parts that can be put together.
//!
//! Names are written as they are. A path that is not UTF-8 is written with U+FFFD in the place of what can't be read,
//! and one that a spreadsheet would take for a formula stays as it is: rows are data, and a reader must find its files again.

mod parquet;

use std::io::{self, Write};

use crds::scoring_job::RowFormat;
use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use super::{Column, Input, Layout, OutputError, Row};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Path,
    Label,
    Prediction,
    Probability,
    /// Probability of the class with this index.
    Class(usize),
    /// Name of the class at this rank.
    TopClass(usize),
    /// Probability of the class at this rank.
    TopProbability(usize),
    Error,
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
enum Value<'a> {
    Text(&'a str),
    Number(f32),
    Nothing,
}

/// Writes rows of one form.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    format: RowFormat,
    classes: Vec<String>,
    top_k: usize,
    columns: Vec<(String, Content)>,
}

/// A row with what it takes to write any of its columns.
struct Line<'a> {
    encoder: &'a Encoder,
    path: std::borrow::Cow<'a, str>,
    label: Option<&'a str>,
    row: &'a Row,
    /// Classes by falling probability, of equals the first one first; as many as are written.
    top: Vec<usize>,
}

impl Encoder {
    /// The columns: path, label (if there are labels), prediction and its probability, the classes' probabilities
    /// (`p_<class>`), the most probable ones (`top_1_class`, `top_1_probability`), error.
    pub(super) fn new(format: RowFormat, classes: &[String], layout: Layout, labels: bool) -> Self {
        let top_k = (layout.top_k as usize).min(classes.len());
        let mut columns = vec![("path".to_string(), Content::Path)];
        if labels {
            columns.push(("label".into(), Content::Label));
        }
        columns.push(("prediction".into(), Content::Prediction));
        columns.push(("probability".into(), Content::Probability));
        if layout.all_classes {
            columns
                .extend(classes.iter().enumerate().map(|(index, class)| (format!("p_{class}"), Content::Class(index))));
        }
        for rank in 0..top_k {
            columns.push((format!("top_{}_class", rank + 1), Content::TopClass(rank)));
            columns.push((format!("top_{}_probability", rank + 1), Content::TopProbability(rank)));
        }
        columns.push(("error".into(), Content::Error));
        Self { format, classes: classes.to_vec(), top_k, columns }
    }

    /// The columns, for the manifest.
    pub(super) fn schema(&self) -> Vec<Column> {
        let column = |(name, content): &(String, Content)| Column {
            name: name.clone(),
            kind: if content.is_number() { "float" } else { "string" }.into(),
            nullable: *content != Content::Path,
        };
        self.columns.iter().map(column).collect()
    }

    /// The rows of a part.
    ///
    /// # Errors
    /// If a prediction does not fit the classes, or a probability is no number.
    pub(super) fn part(&self, inputs: &[Input], rows: &[Row]) -> Result<Vec<u8>, OutputError> {
        let lines: Vec<Line<'_>> =
            inputs.iter().zip(rows).map(|(input, row)| self.line(input, row)).collect::<Result<_, _>>()?;
        let encoded = match self.format {
            RowFormat::Csv => self.csv(&lines),
            RowFormat::JsonLines => json_lines(&lines),
            RowFormat::Parquet => parquet::part(self, &lines),
        };
        encoded.map_err(|error| OutputError::Rows(format!("can't write rows as {:?}: {error}", self.format)))
    }

    /// One file of all parts.
    pub(super) fn assemble(
        &self,
        parts: impl Iterator<Item = Result<Vec<u8>, OutputError>>,
        file: &mut (dyn Write + Send),
    ) -> io::Result<()> {
        let mut parts = parts.map(|part| part.map_err(io::Error::other));
        if self.format == RowFormat::Parquet {
            return parquet::assemble(self, parts, file);
        }
        if self.format == RowFormat::Csv {
            let mut header = csv::Writer::from_writer(&mut *file);
            header.write_record(self.columns.iter().map(|(name, _)| name))?;
            header.flush()?;
        }
        parts.try_for_each(|part| file.write_all(&part?))
    }

    fn line<'a>(&'a self, input: &'a Input, row: &'a Row) -> Result<Line<'a>, OutputError> {
        let path = input.path.to_string_lossy();
        let class = input.label.and_then(|label| self.classes.get(label as usize));
        let label = class.or(input.stranger.as_ref()).map(String::as_str);
        let mut top = Vec::new();
        if let Ok(prediction) = row {
            let (probabilities, classes) = (&prediction.probabilities, self.classes.len());
            if probabilities.len() != classes || prediction.class >= classes {
                let (given, class) = (probabilities.len(), prediction.class);
                return Err(OutputError::Rows(format!(
                    "{path}: class {class} of {given} probabilities, for {classes} classes"
                )));
            }
            if let Some(value) = probabilities.iter().find(|value| !value.is_finite()) {
                return Err(OutputError::Rows(format!(
                    "{path}: the probability {value} is no number, give an error in its place"
                )));
            }
            top = (0..classes).collect();
            let order = |a: &usize, b: &usize| probabilities[*b].total_cmp(&probabilities[*a]).then(a.cmp(b));
            if self.top_k > 0 && self.top_k < classes {
                top.select_nth_unstable_by(self.top_k, order);
            }
            top.truncate(self.top_k);
            top.sort_by(order);
        }
        Ok(Line { encoder: self, path, label, row, top })
    }

    fn csv(&self, lines: &[Line<'_>]) -> io::Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for line in lines {
            for (_, content) in &self.columns {
                match line.value(*content) {
                    Value::Text(text) => writer.write_field(text)?,
                    // The shortest digits that read back as the same number.
                    Value::Number(number) => writer.write_field(format!("{number:?}"))?,
                    Value::Nothing => writer.write_field("")?,
                }
            }
            writer.write_record(None::<&[u8]>)?;
        }
        writer.into_inner().map_err(|error| error.into_error())
    }
}

impl Content {
    fn is_number(self) -> bool {
        matches!(self, Content::Probability | Content::Class(_) | Content::TopProbability(_))
    }
}

impl Line<'_> {
    fn value(&self, content: Content) -> Value<'_> {
        let prediction = match self.row {
            Ok(prediction) => prediction,
            Err(error) => {
                return match content {
                    Content::Path => Value::Text(&self.path),
                    Content::Label => self.label.map_or(Value::Nothing, Value::Text),
                    Content::Error => Value::Text(error),
                    _ => Value::Nothing,
                };
            }
        };
        let class = |index: usize| Value::Text(&self.encoder.classes[index]);
        let probability = |index: usize| Value::Number(prediction.probabilities[index]);
        match content {
            Content::Path => Value::Text(&self.path),
            Content::Label => self.label.map_or(Value::Nothing, Value::Text),
            Content::Prediction => class(prediction.class),
            Content::Probability => probability(prediction.class),
            Content::Class(index) => probability(index),
            Content::TopClass(rank) => class(self.top[rank]),
            Content::TopProbability(rank) => probability(self.top[rank]),
            Content::Error => Value::Nothing,
        }
    }
}

fn json_lines(lines: &[Line<'_>]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut bytes, line)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// A row as JSON: every key is always there, null where there is no value. Probabilities of the classes are one object,
/// in the order of the classes.
impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut all = false;
        for (name, content) in &self.encoder.columns {
            match content {
                Content::Class(_) => all = true,
                Content::TopClass(_) | Content::TopProbability(_) => {}
                Content::Error => {
                    if all {
                        map.serialize_entry("probabilities", &Probabilities(self))?;
                    }
                    if self.encoder.top_k > 0 {
                        map.serialize_entry("topK", &Top::of(self))?;
                    }
                    map.serialize_entry(name, &self.value(*content))?;
                }
                content => map.serialize_entry(name, &self.value(*content))?,
            }
        }
        map.end()
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Text(text) => serializer.serialize_str(text),
            Value::Number(number) => serializer.serialize_f32(*number),
            Value::Nothing => serializer.serialize_none(),
        }
    }
}

struct Probabilities<'a>(&'a Line<'a>);

impl Serialize for Probabilities<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.row {
            Ok(prediction) => serializer.collect_map(self.0.encoder.classes.iter().zip(&prediction.probabilities)),
            Err(_) => serializer.serialize_none(),
        }
    }
}

/// One of the most probable classes.
#[derive(Serialize)]
struct Top<'a> {
    class: &'a str,
    probability: f32,
}

impl<'a> Top<'a> {
    fn of(line: &Line<'a>) -> Option<Vec<Top<'a>>> {
        let prediction = line.row.as_ref().ok()?;
        let top =
            |class: &usize| Top { class: &line.encoder.classes[*class], probability: prediction.probabilities[*class] };
        Some(line.top.iter().map(top).collect())
    }
}
