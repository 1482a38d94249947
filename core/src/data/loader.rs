//! Worker threads that decode ahead, bounded and in order.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::host_batch::HostBatch;
use super::source::{DataSource, Entry, TestAccess};
use crate::error::{Error, Result, guarded};
use crate::family::{Mode, Split};
use crate::random::{Purpose, permutation};

/// Which batches are wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// Split to read.
    pub split: Split,
    /// Augmented or plain.
    pub mode: Mode,
    /// In random order, or in that of the lists.
    pub shuffled: bool,
    /// Passes over training data made so far in the run; names the order and the augmentation.
    pub epoch: u64,
    /// Samples a batch, at least 1.
    pub batch_size: usize,
    /// Whether an incomplete last batch is left out.
    pub drop_last: bool,
    /// Modalities to decode.
    pub modalities: Vec<String>,
    /// Batches to skip at the start, without decoding them.
    pub start: usize,
    /// Threads that decode; 0 decodes on the calling thread.
    pub workers: usize,
    /// Batches decoded ahead of the consumer, at least 1.
    pub prefetch: usize,
    /// Permission to read the test split.
    pub access: Option<TestAccess>,
}

/// Iterator over decoded batches, in the order of the plan whatever the number of workers.
pub struct Batches {
    job: Arc<Job>,
    next: usize,
    workers: Vec<JoinHandle<()>>,
    waited: Duration,
}

struct Job {
    source: Arc<DataSource>,
    modalities: Vec<String>,
    mode: Mode,
    epoch: u64,
    /// Position in the split and entry of every sample, batch by batch.
    plan: Vec<Vec<(usize, Entry)>>,
    prefetch: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    claimed: usize,
    consumed: usize,
    ready: BTreeMap<usize, Result<HostBatch>>,
    spare: Vec<HostBatch>,
    stopped: bool,
}

impl Batches {
    /// Plans the batches and starts the workers.
    ///
    /// # Errors
    /// When the test split is asked for without permission.
    pub fn start(source: &Arc<DataSource>, request: Request) -> Result<Self> {
        let entries = source.entries(request.split, request.access)?;
        let order = if request.shuffled {
            let name = request.split.name();
            let mut stream = source.seed.stream(Purpose::Order, name, &[request.epoch]);
            permutation(entries.len(), &mut stream)
        } else {
            (0..entries.len()).collect()
        };
        let size = request.batch_size.max(1);
        let plan: Vec<Vec<_>> = order
            .chunks(size)
            .filter(|chunk| !request.drop_last || chunk.len() == size)
            .map(|chunk| chunk.iter().map(|position| (*position, entries[*position])).collect())
            .collect();
        let start = request.start.min(plan.len());
        let job = Arc::new(Job {
            source: source.clone(),
            modalities: request.modalities,
            mode: request.mode,
            epoch: request.epoch,
            plan,
            prefetch: request.prefetch.max(1),
            queue: Mutex::new(Queue {
                claimed: start,
                consumed: start,
                ready: BTreeMap::new(),
                spare: Vec::new(),
                stopped: false,
            }),
            changed: Condvar::new(),
        });
        let mut batches = Self { job, next: start, workers: Vec::new(), waited: Duration::ZERO };
        for _ in 0..request.workers.min(batches.total() - start) {
            let job = batches.job.clone();
            // An error drops `batches`, which ends the workers that were started before.
            let worker =
                std::thread::Builder::new().spawn(move || job.work()).map_err(|error| {
                    Error::refused(
                        format!("the system gives no thread for a worker: {error}"),
                        "lower run.workers",
                    )
                })?;
            batches.workers.push(worker);
        }
        Ok(batches)
    }

    /// Number of batches of the whole pass, skipped ones included.
    pub fn total(&self) -> usize {
        self.job.plan.len()
    }

    /// Time the consumer has spent waiting for data so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Gives the memory of a batch back for reuse.
    pub fn recycle(&self, batch: HostBatch) {
        self.job.lock().spare.push(batch);
    }

    /// Decodes or waits for the next batch.
    ///
    /// # Errors
    /// The first file that cannot be decoded, in the order of the plan.
    pub fn next_batch(&mut self) -> Result<Option<HostBatch>> {
        if self.next >= self.job.plan.len() {
            return Ok(None);
        }
        let started = Instant::now();
        let batch = if self.workers.is_empty() {
            let spare = self.job.lock().spare.pop().unwrap_or_default();
            self.job.decode(self.next, spare)
        } else {
            self.job.take(self.next)
        };
        self.waited += started.elapsed();
        self.next += 1;
        batch.map(Some)
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.job.lock().stopped = true;
        self.job.changed.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panic has already been turned into the error of its batch.
            drop(worker.join());
        }
    }
}

impl Job {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let (index, spare) = {
                let mut queue = self.lock();
                while !queue.stopped
                    && queue.claimed < self.plan.len()
                    && queue.claimed >= queue.consumed.saturating_add(self.prefetch)
                {
                    queue = self.wait(queue);
                }
                if queue.stopped || queue.claimed >= self.plan.len() {
                    return;
                }
                queue.claimed += 1;
                (queue.claimed - 1, queue.spare.pop().unwrap_or_default())
            };
            let batch = self.decode(index, spare);
            self.lock().ready.insert(index, batch);
            self.changed.notify_all();
        }
    }

    fn take(&self, index: usize) -> Result<HostBatch> {
        let mut queue = self.lock();
        loop {
            if let Some(batch) = queue.ready.remove(&index) {
                queue.consumed = index + 1;
                self.changed.notify_all();
                return batch;
            }
            queue = self.wait(queue);
        }
    }

    fn decode(&self, index: usize, mut batch: HostBatch) -> Result<HostBatch> {
        // Without a result for every batch the consumer would wait for ever.
        guarded("the data loader", || {
            batch.fill(&self.source, &self.modalities, self.mode, self.epoch, &self.plan[index])?;
            Ok(batch)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tch::Device;

    use super::super::fixture::{Decoder, Files, WIDTH};
    use super::*;
    use crate::config::DataSection;

    fn request(workers: usize) -> Request {
        Request {
            split: Split::Train,
            mode: Mode::Training,
            shuffled: true,
            epoch: 3,
            batch_size: 4,
            drop_last: false,
            modalities: vec!["file".to_owned()],
            start: 0,
            workers,
            prefetch: 2,
            access: None,
        }
    }

    /// Opens training samples of these names.
    fn open(folder: &std::path::Path, names: &[&str], decoder: Decoder) -> Arc<DataSource> {
        let samples: Vec<_> =
            names.iter().enumerate().map(|(n, name)| (Split::Train, *name, n % 2)).collect();
        Files::new(folder, &samples).open(decoder, &DataSection::default()).unwrap()
    }

    /// The error of the only sample that cannot be decoded.
    fn failure(name: &str, workers: usize) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        let names = ["a", "b", "c", name, "d", "e", "f", "g", "h"];
        let source = open(folder.path(), &names, Decoder::default());
        let mut batches = Batches::start(&source, request(workers)).unwrap();
        let mut errors = Vec::new();
        for _ in 0..batches.total() {
            errors.extend(batches.next_batch().err());
        }
        assert_eq!(errors.len(), 1);
        assert!(batches.next_batch().unwrap().is_none());
        (errors.remove(0).to_string(), folder.path().join(name).display().to_string())
    }

    /// Positions and bits of every batch of a pass, its memory reused as in training.
    fn pass(batches: &mut Batches) -> Vec<(Vec<usize>, Vec<u32>)> {
        let mut all = Vec::new();
        while let Some(host) = batches.next_batch().unwrap() {
            let batch = host.to_device(Device::Cpu).unwrap();
            batches.recycle(host);
            let flat = batch.inputs["file"].value().unwrap().flatten(0, -1);
            let values: Vec<f32> = Vec::try_from(flat).unwrap();
            all.push((batch.indices, values.into_iter().map(f32::to_bits).collect()));
        }
        all
    }

    /// Names of 30 samples, of which one fills nothing in.
    fn names() -> Vec<String> {
        (0..30).map(|n| if n == 17 { "silent".to_owned() } else { format!("s{n}") }).collect()
    }

    fn open_30(folder: &std::path::Path, decoder: Decoder) -> Arc<DataSource> {
        let names = names();
        open(folder, &names.iter().map(String::as_str).collect::<Vec<_>>(), decoder)
    }

    #[test]
    fn any_number_of_workers_gives_the_same_bits_in_the_same_order() {
        let folder = tempfile::tempdir().unwrap();
        let source = open_30(folder.path(), Decoder::default());
        let expected = pass(&mut Batches::start(&source, request(0)).unwrap());
        assert_eq!(expected.iter().map(|(positions, _)| positions.len()).sum::<usize>(), 30);
        let (positions, bits) =
            expected.iter().find(|(positions, _)| positions.contains(&17)).unwrap();
        let row = positions.iter().position(|&position| position == 17).unwrap();
        assert_eq!(bits[row * WIDTH..(row + 1) * WIDTH], [0; WIDTH], "nothing of another batch");
        assert!(bits.iter().any(|&bits| bits != 0));
        for workers in 1..=8 {
            for prefetch in [1, 2, 7, usize::MAX] {
                let request = Request { prefetch, ..request(workers) };
                let found = pass(&mut Batches::start(&source, request).unwrap());
                assert_eq!(found, expected, "{workers} workers, {prefetch} ahead");
            }
            let later = Request { start: 5, ..request(workers) };
            assert_eq!(pass(&mut Batches::start(&source, later).unwrap()), expected[5..]);
        }
        let other = Request { epoch: 4, ..request(2) };
        assert_ne!(pass(&mut Batches::start(&source, other).unwrap()), expected);
    }

    #[test]
    fn one_batch_may_hold_everything_and_more() {
        let folder = tempfile::tempdir().unwrap();
        let source = open_30(folder.path(), Decoder::default());
        let all = Request { batch_size: usize::MAX, ..request(8) };
        assert_eq!(pass(&mut Batches::start(&source, all.clone()).unwrap()).len(), 1);
        let none = Request { drop_last: true, ..all };
        assert!(pass(&mut Batches::start(&source, none).unwrap()).is_empty());
    }

    #[test]
    fn a_panic_of_a_decoder_becomes_an_error_that_names_the_sample() {
        for workers in [0, 1, 8] {
            let (error, file) = failure("panics", workers);
            let start = format!(
                "in modality `file` of sample `panics`, train split: {file}: libtorch: no such \
                 number\n  what to do: "
            );
            assert!(error.starts_with(&start), "{error}");
        }
    }

    #[test]
    fn a_loader_may_be_dropped_at_any_moment() {
        let (done, waiting) = std::sync::mpsc::channel();
        let work = std::thread::spawn(move || {
            let folder = tempfile::tempdir().unwrap();
            let source = open_30(folder.path(), Decoder::default());
            for workers in [0, 1, 2, 8] {
                for taken in [0, 1, 3, 8] {
                    let mut batches = Batches::start(&source, request(workers)).unwrap();
                    for _ in 0..taken {
                        drop(batches.next_batch().unwrap());
                    }
                    drop(batches);
                }
            }
            // No worker holds on to the data.
            assert_eq!(Arc::strong_count(&source), 1);
            done.send(()).unwrap();
        });
        waiting.recv_timeout(Duration::from_mins(1)).expect("dropping a loader hangs");
        work.join().unwrap();
    }

    #[test]
    fn no_more_is_decoded_ahead_than_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let decoder = Decoder::default();
        let decoded = decoder.decoded.clone();
        let source = open_30(folder.path(), decoder);
        let mut batches = Batches::start(&source, request(8)).unwrap();
        // Two batches ahead of four samples each, and not one sample more however long it takes.
        for expected in [8, 12, 16] {
            let started = Instant::now();
            while decoded.load(Ordering::SeqCst) < expected {
                assert!(started.elapsed() < Duration::from_mins(1), "workers stopped");
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(30));
            assert_eq!(decoded.load(Ordering::SeqCst), expected);
            let batch = batches.next_batch().unwrap().unwrap();
            batches.recycle(batch);
        }
        pass(&mut batches);
        // Memory is that of the batches ahead and the one in use.
        assert!(batches.job.lock().spare.len() <= 3);
    }

    #[test]
    fn a_poisoned_lock_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let source = open_30(folder.path(), Decoder::default());
        let expected = pass(&mut Batches::start(&source, request(0)).unwrap());
        let mut batches = Batches::start(&source, request(3)).unwrap();
        let job = batches.job.clone();
        let poison = std::thread::spawn(move || {
            let _queue = job.lock();
            panic!("poisons the lock");
        });
        assert!(poison.join().is_err());
        assert!(batches.job.queue.is_poisoned());
        assert_eq!(pass(&mut batches), expected);
    }

    #[test]
    fn the_test_split_opens_with_permission_alone() {
        let folder = tempfile::tempdir().unwrap();
        let samples = [(Split::Train, "a", 0), (Split::Train, "b", 1), (Split::Test, "c", 1)];
        let dataset = Files::new(folder.path(), &samples);
        let source = dataset.open(Decoder::default(), &DataSection::default()).unwrap();
        let test = Request { split: Split::Test, ..request(1) };
        let error = Batches::start(&source, test.clone()).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("the test split is locked during training"), "{error}");
        let test = Request { access: Some(TestAccess::granted()), ..test };
        assert_eq!(pass(&mut Batches::start(&source, test).unwrap()).len(), 1);
    }

    #[test]
    fn a_broken_file_s_error_says_what_where_and_what_to_do() {
        for workers in [0, 1, 5] {
            let (error, file) = failure("broken", workers);
            assert_eq!(
                error,
                format!(
                    "in modality `file` of sample `broken`, train split: {file}: is truncated: 3 \
                     bytes are left\n  what to do: mend the file, or train without the sample: \
                     data.exclude = [\"broken\"]; `mie data check EXPERIMENT --decode` lists all \
                     that cannot be decoded"
                )
            );
        }
    }
}
