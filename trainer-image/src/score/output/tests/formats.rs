//! What stands in the files, read back by readers that are not ours.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
use ::parquet::record::Field;

use super::*;

const HOSTILE: [&[u8]; 8] = [
    b"a, b.png",
    b"say \"hi\".png",
    b"two\nlines\r.png",
    b"=cmd|' /C calc'!A0",
    b"-1+1.png",
    b"caf\xc3\xa9 \xf0\x9f\x90\x88.png",
    b"not utf-8 \xff\xfe.png",
    b" ;\t'\\.png ",
];

fn hostile(format: RowFormat) -> Job {
    let mut job = job(HOSTILE.len()).format(format);
    for (input, name) in job.inputs.iter_mut().zip(HOSTILE) {
        input.path = OsStr::from_bytes(name).into();
    }
    job.inputs[2].label = None;
    job
}

/// Scores the job; the rows are right but for one with an error, whose text is as hostile as the names.
fn finish(job: &Job) -> Manifest {
    let mut writer = job.writer(1);
    let range = writer.next_missing().unwrap();
    let mut rows = rows(range.clone());
    rows[1] = Err("broken, \"very\"\nbroken".into());
    writer.commit(range, &rows).unwrap();
    writer.finish().unwrap().manifest.unwrap()
}

fn names() -> Vec<String> {
    HOSTILE.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

#[test]
fn a_label_that_is_no_class_stands_in_its_row_as_it_was_given() {
    let mut job = job(3);
    for (input, stranger) in job.inputs.iter_mut().zip([Some("lynx, \"big\""), Some("cat "), None]) {
        (input.label, input.stranger) = (None, stranger.map(str::to_owned));
    }
    job.run_all(1);
    let mut reader = csv::Reader::from_path(job.folder().join("predictions.csv")).unwrap();
    assert_eq!(reader.headers().unwrap().get(1), Some("label"));
    let labels: Vec<String> = reader.records().map(|row| row.unwrap()[1].to_owned()).collect();
    assert_eq!(labels, ["lynx, \"big\"", "cat ", ""]);
}

#[test]
fn csv_reads_back_as_written() {
    let job = hostile(RowFormat::Csv);
    let manifest = finish(&job);
    assert_eq!(manifest.rows, RowCounts { inputs: 8, written: 8, failed: 1 });
    let mut reader = csv::Reader::from_path(job.folder().join("predictions.csv")).unwrap();
    let header: Vec<String> = reader.headers().unwrap().iter().map(String::from).collect();
    let columns = [
        "path",
        "label",
        "prediction",
        "probability",
        "p_cat",
        "p_dog, \"wet\"",
        "p_=1+1",
        "top_1_class",
        "top_1_probability",
        "top_2_class",
        "top_2_probability",
        "error",
    ];
    assert_eq!(header, columns);
    assert_eq!(manifest.schema.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), columns);
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(records.iter().map(|record| record[0].to_string()).collect::<Vec<_>>(), names());
    assert_eq!(
        records[0].iter().collect::<Vec<_>>(),
        ["a, b.png", "cat", "cat", "0.5", "0.5", "0.375", "0.125", "cat", "0.5", "dog, \"wet\"", "0.375", ""]
    );
    let error = ["say \"hi\".png", "dog, \"wet\"", "", "", "", "", "", "", "", "", "", "broken, \"very\"\nbroken"];
    assert_eq!(records[1].iter().collect::<Vec<_>>(), error);
    assert_eq!(
        (&records[2][1], &records[2][2], records[2][3].parse::<f32>().unwrap()),
        ("", "dog, \"wet\"", 0.75 * 0.75)
    );
}

#[test]
fn json_lines_reads_back_as_written() {
    let job = hostile(RowFormat::JsonLines);
    finish(&job);
    let text = std::fs::read_to_string(job.folder().join("predictions.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.iter().map(|row| row["path"].as_str().unwrap().to_string()).collect::<Vec<_>>(), names());
    assert_eq!(
        text.lines().next().unwrap(),
        r#"{"path":"a, b.png","label":"cat","prediction":"cat","probability":0.5,"probabilities":{"cat":0.5,"dog, \"wet\"":0.375,"=1+1":0.125},"topK":[{"class":"cat","probability":0.5},{"class":"dog, \"wet\"","probability":0.375}],"error":null}"#
    );
    assert_eq!(
        rows[1],
        serde_json::json!({"path": "say \"hi\".png", "label": "dog, \"wet\"", "prediction": null, "probability": null,
            "probabilities": null, "topK": null, "error": "broken, \"very\"\nbroken"})
    );
    assert_eq!(rows[2]["label"], serde_json::Value::Null);
}

#[test]
fn parquet_reads_back_as_written_from_as_many_row_groups_as_parts() {
    let job = hostile(RowFormat::Parquet);
    finish(&job);
    let open = |job: &Job| {
        SerializedFileReader::new(std::fs::File::open(job.folder().join("predictions.parquet")).unwrap()).unwrap()
    };
    let read: Vec<Vec<Field>> = open(&job)
        .get_row_iter(None)
        .unwrap()
        .map(|row| row.unwrap().get_column_iter().map(|(_, field)| field.clone()).collect())
        .collect();
    let text = |text: &str| Field::Str(text.into());
    assert_eq!(
        read.iter().map(|row| row[0].clone()).collect::<Vec<_>>(),
        names().iter().map(|name| text(name)).collect::<Vec<_>>()
    );
    let number = Field::Float;
    assert_eq!(
        read[0],
        [
            text("a, b.png"),
            text("cat"),
            text("cat"),
            number(0.5),
            number(0.5),
            number(0.375),
            number(0.125),
            text("cat"),
            number(0.5),
            text("dog, \"wet\""),
            number(0.375),
            Field::Null,
        ]
    );
    assert_eq!(read[1][2..11], vec![Field::Null; 9]);
    assert_eq!((read[1][11].clone(), read[2][1].clone()), (text("broken, \"very\"\nbroken"), Field::Null));

    let large = super::job(40).format(RowFormat::Parquet);
    large.run_all(1);
    let reader = open(&large);
    assert_eq!((reader.num_row_groups(), reader.metadata().file_metadata().num_rows()), (3, 40));
    let paths = reader.get_row_iter(None).unwrap().map(|row| row.unwrap().get_column_iter().next().unwrap().1.clone());
    let expected: Vec<Field> = large.inputs.iter().map(|input| text(&input.path.to_string_lossy())).collect();
    assert_eq!(paths.collect::<Vec<_>>(), expected);
}

#[test]
fn every_format_is_complete_without_any_input() {
    for (format, name) in FORMATS.into_iter().zip(["predictions.csv", "predictions.jsonl", "predictions.parquet"]) {
        let job = job(0).format(format);
        assert_eq!(job.run_all(1).rows, RowCounts::default());
        let bytes = &job.tree()[name];
        match format {
            RowFormat::Csv => assert!(bytes.starts_with(b"path,prediction,probability,p_cat,")),
            RowFormat::JsonLines => assert!(bytes.is_empty()),
            RowFormat::Parquet => {
                let reader = SerializedFileReader::new(bytes::Bytes::from(bytes.clone())).unwrap();
                assert_eq!(
                    (reader.num_row_groups(), reader.metadata().file_metadata().schema().get_fields().len()),
                    (0, 11)
                );
            }
        }
    }
}

#[test]
fn only_what_was_asked_for_has_columns_and_the_most_probable_come_first() {
    let mut job = job(4).format(RowFormat::Csv);
    job.layout = Layout { all_classes: false, top_k: 9 };
    job.inputs.iter_mut().for_each(|input| input.label = None);
    let mut writer = job.writer(1);
    let row = |probabilities: [f32; 3]| Ok(Prediction { class: 2, probabilities: probabilities.into() });
    let rows = [row([0.2, 0.4, 0.4]), row([1.0, 0.0, 1e-9]), row([0.25; 3]), row([0.1, 0.2, 0.7])];
    writer.commit(0..4, &rows).unwrap();
    writer.finish().unwrap();
    let text = String::from_utf8(job.tree()["predictions.csv"].clone()).unwrap();
    let expected = "\
path,prediction,probability,top_1_class,top_1_probability,top_2_class,top_2_probability,top_3_class,top_3_probability,error
images/00000.png,=1+1,0.4,\"dog, \"\"wet\"\"\",0.4,=1+1,0.4,cat,0.2,
images/00001.png,=1+1,1e-9,cat,1.0,=1+1,1e-9,\"dog, \"\"wet\"\"\",0.0,
images/00002.png,=1+1,0.25,cat,0.25,\"dog, \"\"wet\"\"\",0.25,=1+1,0.25,
images/00003.png,=1+1,0.7,=1+1,0.7,\"dog, \"\"wet\"\"\",0.2,cat,0.1,
";
    assert_eq!(text, expected);
}

#[test]
fn frozen_inputs_keep_paths_that_are_not_utf_8() {
    let job = hostile(RowFormat::Csv);
    drop(job.writer(1));
    assert_eq!(job.writer(1).inputs(), job.inputs);
}
