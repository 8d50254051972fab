//! Tables and tar files in a store, and what can be wrong with them.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use crds::contract::Cause;
use libtest_mimic::Failed;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::json;

use crate::bench::{Bench, check, s3, training};

pub(crate) const PER_CLASS: u32 = 8;

/// The images' paths and classes, in the order of a folder's listing.
pub(crate) fn rows() -> Vec<(String, &'static str)> {
    ["left", "right"]
        .into_iter()
        .flat_map(|class| (0..PER_CLASS).map(move |index| (format!("images/{class}/{index:03}.png"), class)))
        .collect()
}

fn write_parquet(file: &Path, rows: &[(String, &str)]) -> Result<(), Failed> {
    let schema =
        Arc::new(parse_message_type("message t { required binary image (UTF8); required binary label (UTF8); }")?);
    let mut writer = SerializedFileWriter::new(File::create(file)?, schema, Arc::new(WriterProperties::default()))?;
    let mut group = writer.next_row_group()?;
    for column in [rows.iter().map(|row| row.0.as_str()).collect::<Vec<_>>(), rows.iter().map(|row| row.1).collect()] {
        let texts: Vec<ByteArray> = column.into_iter().map(ByteArray::from).collect();
        let mut next = group.next_column()?.ok_or("a column is missing")?;
        next.typed::<ByteArrayType>().write_batch(&texts, None, None)?;
        next.close()?;
    }
    group.close()?;
    writer.close()?;
    Ok(())
}

/// Puts images of a folder into a tar file with their classes, in a `.cls` or a `.json` beside each.
pub(crate) fn write_tar(folder: &Path, file: &Path, rows: &[(String, &str)]) -> Result<(), Failed> {
    let mut tar = tar::Builder::new(File::create(file)?);
    let mut add = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes)
    };
    for (number, (path, class)) in rows.iter().enumerate() {
        let key = path.trim_end_matches(".png");
        add(path.clone(), &fs::read(folder.join(path))?)?;
        match number % 2 {
            0 => add(format!("{key}.cls"), class.as_bytes())?,
            _ => add(format!("{key}.json"), json!({"label": class}).to_string().as_bytes())?,
        }
    }
    tar.finish()?;
    Ok(())
}

/// What is trained from a list in a bucket is what is trained from the same list of files.
pub(crate) fn same_as_folders() -> Result<(), Failed> {
    let bench = Bench::new()?;
    bench.draw(&bench.object("images"), PER_CLASS)?;
    let rows = rows();
    let csv: String = rows.iter().map(|(path, class)| format!("{path},{class}\n")).collect();
    fs::write(bench.object("a.csv"), format!("image,label\n{csv}"))?;
    let lines: String =
        rows.iter().map(|(path, class)| json!({"image": path, "label": class}).to_string() + "\n").collect();
    fs::write(bench.object("a.jsonl"), lines)?;
    write_parquet(&bench.object("a.parquet"), &rows)?;
    for (number, part) in rows.chunks(6).enumerate() {
        write_tar(&bench.object(""), &bench.object(&format!("a-{number:02}.tar")), part)?;
    }
    // All are trained on, so that the order and the pixels are all there is to differ.
    let train = |name: &str, data: String| -> Result<Vec<u8>, Failed> {
        let mut spec = training(&data, &bench.file_uri(name));
        spec["data"]["validation"]["fraction"] = json!(0.0);
        spec["training"]["epochs"] = json!(1);
        spec["infrastructure"]["processesPerNode"] = json!(1);
        bench.start("TrainingJob", name, &spec, 1)?.succeed()?;
        Ok(fs::read(bench.path(name).join("model.safetensors"))?)
    };
    let folder = train("folder", s3("images"))?;
    for (name, data) in [("csv", "a.csv"), ("jsonl", "a.jsonl"), ("parquet", "a.parquet"), ("tar", "a-{00..02}.tar")] {
        check(train(name, s3(data))? == folder, || format!("{name} gives other weights than the folder"))?;
    }
    Ok(())
}

/// A tar file that is none, or cut off, or without labels; a Parquet file without the column.
pub(crate) fn faults_are_named() -> Result<(), Failed> {
    let bench = Bench::new()?;
    bench.draw(&bench.object("images"), PER_CLASS)?;
    let rows = rows();
    write_parquet(&bench.object("other.parquet"), &rows)?;
    write_tar(&bench.object(""), &bench.object("whole.tar"), &rows)?;
    let whole = fs::read(bench.object("whole.tar"))?;
    fs::write(bench.object("cut.tar"), &whole[..whole.len() / 2 + 700])?;
    fs::write(bench.object("none.tar"), [7; 4096])?;
    fs::write(bench.object("none.parquet"), b"not one")?;
    fs::create_dir_all(bench.object("unlabelled"))?;
    let mut tar = tar::Builder::new(File::create(bench.object("unlabelled/a.tar"))?);
    tar.append_path_with_name(bench.object(&rows[0].0), "a.png")?;
    tar.finish()?;
    let table = [
        ("cut.tar", json!({}), "cut.tar"),
        ("none.tar", json!({}), "none.tar: not a tar file"),
        ("none.parquet", json!({}), "none.parquet: not a Parquet file"),
        ("other.parquet", json!({"imageColumn": "path"}), "no column \"path\"; its columns are: image, label"),
        ("unlabelled", json!({"format": "WebDataset"}), "a.png has no label"),
        ("images", json!({"format": "WebDataset"}), "needs .tar files"),
    ];
    for (data, columns, says) in table {
        let mut spec = training(&s3(data), &bench.file_uri("output"));
        spec["infrastructure"]["processesPerNode"] = json!(1);
        for (name, value) in columns.as_object().into_iter().flatten() {
            spec["data"][name] = value.clone();
        }
        bench.start("TrainingJob", data.trim_end_matches('/'), &spec, 1)?.fail(Cause::BadData, says)?;
    }
    Ok(())
}
