//! Puts an event file into the output folder, in the background: neither a slow nor a failing storage holds the training
//! up. A failure is a warning, and the next write has all that this one had.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use super::{Events, FOLDER};
use crate::folder::{Disk, Folder, FolderError};

/// Writes the file as it grows; see [`Events`].
#[derive(Debug)]
pub struct Publisher {
    events: Events,
    /// Whole files for the thread; none once it is to end.
    files: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
    published: usize,
}

impl Publisher {
    /// A publisher of `events` below `folder`.
    pub fn start(folder: Folder, events: Events) -> Publisher {
        let (files, received) = sync_channel(1);
        let name = events.name().to_owned();
        let thread = std::thread::Builder::new()
            .name("tensorboard".to_owned())
            .spawn(move || write_all(&folder, &name, &received))
            .inspect_err(|error| tracing::warn!("no TensorBoard events are written: {error}"))
            .ok();
        Publisher { events, files: thread.is_some().then_some(files), thread, published: 0 }
    }

    /// The events.
    pub fn events(&mut self) -> &mut Events {
        &mut self.events
    }

    /// Hands the file as it is now to the thread, or leaves it to the next time while the thread has one that waits.
    pub fn publish(&mut self) {
        let Some(files) = &self.files else { return };
        match files.try_send(self.events.bytes().to_vec()) {
            Ok(()) => self.published = self.events.bytes().len(),
            Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => self.files = None,
        }
    }
}

impl Drop for Publisher {
    /// What has not been written yet is, however the training ends.
    fn drop(&mut self) {
        if let Some(files) = self.files.take()
            && self.published < self.events.bytes().len()
        {
            // It fails if the thread is gone, which has said why.
            let _ = files.send(self.events.bytes().to_vec());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_all(folder: &Folder, name: &str, files: &Receiver<Vec<u8>>) {
    let disk = Disk::default();
    for bytes in files {
        if let Err(error) = write(&disk, folder.path(), name, &bytes) {
            tracing::warn!("TensorBoard's events could not be written; the training goes on: {error}");
        }
    }
}

/// Staged in the output folder itself: TensorBoard would read what is half-written below its own, and what a kill leaves
/// is cleared away by the next attempt.
fn write(disk: &Disk, folder: &Path, name: &str, bytes: &[u8]) -> Result<(), FolderError> {
    disk.create_folder(&folder.join(FOLDER))?;
    disk.put_staged(&folder.join(name), folder, |file| file.write_all(bytes))
}
