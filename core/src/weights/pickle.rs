//! A machine for pickles that hold tensors: it knows a few names, and calls nothing.
//!
//! Whatever is not part of a table of tensors as `torch.save` writes it is refused by its name.
//! Values are numbers of entries in flat lists, so that no nesting is too deep to be dropped, and
//! every list has a limit.

use std::collections::BTreeMap;

use super::Numbers;

/// Most bytes that a pickle may have.
pub(super) const LONGEST: usize = 16 << 20;

/// Most values on the stack, in the memo, and most lists and tables.
const MOST_VALUES: usize = 1 << 20;

/// Most entries of all lists and tables together.
const MOST_ENTRIES: usize = 1 << 22;

/// Most tensors.
const MOST_TENSORS: usize = 1 << 17;

/// Most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 16;

/// Most bytes of a name.
const LONGEST_NAME: usize = 256;

/// Part of the pickle's bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    start: usize,
    end: usize,
}

/// A value; those that hold others are positions in the lists of the pickle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    None,
    Flag(bool),
    Whole(i64),
    /// A whole number of more than 8 bytes, the lowest first.
    Long(Span),
    Text(Span),
    Name(Name),
    /// A tuple or list.
    List(usize),
    Table(usize),
    Storage(usize),
    Tensor(usize),
    /// Something that is no part of a tensor: a fraction, bytes, a name of a dtype.
    Other,
}

/// The names that a pickle may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Name {
    OrderedDict,
    Size,
    Tensor,
    Parameter,
    Storage(Numbers),
    /// A name that stands for itself, such as that of a dtype.
    Inert,
}

impl Name {
    fn of(module: &str, name: &str) -> Result<Self, String> {
        let storage = matches!(module, "torch" | "torch.cuda" | "torch.storage");
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", "Size") => Self::Size,
            ("torch._utils", "_rebuild_tensor_v2") => Self::Tensor,
            ("torch._utils", "_rebuild_parameter") => Self::Parameter,
            ("torch.storage", "TypedStorage" | "_TypedStorage" | "UntypedStorage") => Self::Inert,
            ("torch", name) if DTYPES.contains(&name) => Self::Inert,
            (_, name) if storage => match STORAGES.iter().find(|(known, _)| *known == name) {
                Some((_, numbers)) => Self::Storage(*numbers),
                None => return Err(refusal(module, name)),
            },
            _ => return Err(refusal(module, name)),
        })
    }
}

/// Names of dtypes, which tables beside the tensors may hold.
const DTYPES: [&str; 13] = [
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "complex64",
    "complex128",
    "uint16",
];

/// What storages hold, by the name of their class.
const STORAGES: [(&str, Numbers); 10] = [
    ("FloatStorage", Numbers::F32),
    ("DoubleStorage", Numbers::F64),
    ("HalfStorage", Numbers::F16),
    ("BFloat16Storage", Numbers::Bf16),
    ("LongStorage", Numbers::I64),
    ("IntStorage", Numbers::I32),
    ("ShortStorage", Numbers::I16),
    ("CharStorage", Numbers::I8),
    ("ByteStorage", Numbers::U8),
    ("BoolStorage", Numbers::Bool),
];

fn refusal(module: &str, name: &str) -> String {
    format!(
        "it names `{module}.{name}`, which is no part of a table of tensors, and nothing of a \
         pickle is executed: save the tensors alone, with `torch.save(model.state_dict(), …)`"
    )
}

/// Numbers that tensors are views of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    /// Its name within the file.
    pub(super) key: String,
    pub(super) numbers: Numbers,
    pub(super) count: u64,
}

/// A view of a storage; lies within it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    /// Position among the storages.
    pub(super) storage: usize,
    /// Numbers before its first one.
    pub(super) offset: i64,
    pub(super) shape: Vec<i64>,
    pub(super) strides: Vec<i64>,
}

/// What a pickle says.
pub(super) struct Pickle<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, Value>,
    lists: Vec<Vec<Value>>,
    tables: Vec<Vec<(Value, Value)>>,
    entries: usize,
    by_key: BTreeMap<String, usize>,
    /// The storages that it refers to.
    pub(super) storages: Vec<Stored>,
    /// The tensors that it rebuilds.
    pub(super) tensors: Vec<View>,
    /// The one value that it is.
    pub(super) root: Value,
}

impl<'a> Pickle<'a> {
    /// Reads one pickle, which starts at `from`.
    ///
    /// # Errors
    /// Says at which byte it is not a pickle of tensors, and why.
    pub(super) fn read(bytes: &'a [u8], from: usize) -> Result<Self, String> {
        let mut pickle = Self {
            bytes,
            at: from,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
            lists: Vec::new(),
            tables: Vec::new(),
            entries: 0,
            by_key: BTreeMap::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
            root: Value::None,
        };
        loop {
            let at = pickle.at;
            let ended = pickle.step().map_err(|problem| format!("at byte {at}: {problem}"))?;
            if ended {
                return Ok(pickle);
            }
        }
    }

    /// Bytes up to its end.
    pub(super) fn end(&self) -> usize {
        self.at
    }

    pub(super) fn text(&self, value: Value) -> Option<&'a str> {
        let Value::Text(span) = value else { return None };
        std::str::from_utf8(self.bytes.get(span.start..span.end)?).ok()
    }

    /// The bytes of a whole number that is too long for others.
    pub(super) fn long(&self, value: Value) -> Option<&'a [u8]> {
        let Value::Long(span) = value else { return None };
        self.bytes.get(span.start..span.end)
    }

    pub(super) fn table(&self, value: Value) -> Option<&[(Value, Value)]> {
        let Value::Table(table) = value else { return None };
        self.tables.get(table).map(Vec::as_slice)
    }

    pub(super) fn list(&self, value: Value) -> Option<&[Value]> {
        let Value::List(list) = value else { return None };
        self.lists.get(list).map(Vec::as_slice)
    }

    /// Looks up what a table has under a text; the last one counts, as in Python.
    pub(super) fn get(&self, table: Value, key: &str) -> Option<Value> {
        let entries = self.table(table)?.iter().rev();
        entries.copied().find(|(found, _)| self.text(*found) == Some(key)).map(|(_, value)| value)
    }

    /// Does what one opcode says; true at the end.
    fn step(&mut self) -> Result<bool, String> {
        match self.byte()? {
            b'.' => {
                self.root = self.pop()?;
                return Ok(true);
            }
            // PROTO
            0x80 => match self.byte()? {
                0..=5 => {}
                version => return Err(format!("pickle protocol {version}, expected up to 5")),
            },
            // FRAME
            0x95 => {
                self.take(8)?;
            }
            b'(' if self.marks.len() < MOST_VALUES => self.marks.push(self.stack.len()),
            b'(' => return Err(too_many("marks")),
            b'N' => self.push(Value::None)?,
            // NEWTRUE, NEWFALSE
            0x88 => self.push(Value::Flag(true))?,
            0x89 => self.push(Value::Flag(false))?,
            b'K' | b'M' | b'J' | 0x8a | b'G' => self.number()?,
            b'X' | b'U' | b'T' | b'B' | b'C' | 0x8c | 0x8d => self.text_or_bytes()?,
            b'}' => self.push_table(Vec::new())?,
            b']' | b')' => self.push_list(Vec::new())?,
            b't' => {
                let items = self.since_mark()?;
                self.push_list(items)?;
            }
            // TUPLE1, TUPLE2, TUPLE3
            count @ 0x85..=0x87 => {
                let items = self.last(usize::from(count - 0x84))?;
                self.push_list(items)?;
            }
            b's' => {
                let pair = self.last(2)?;
                self.set_items(&pair)?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set_items(&items)?;
            }
            b'a' => {
                let item = self.last(1)?;
                self.append(&item)?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.append(&items)?;
            }
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.remember_or_recall()?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Name(Name::of(module, name)?))?;
            }
            // STACK_GLOBAL
            0x93 => {
                let parts = self.last(2)?;
                let (Some(module), Some(name)) = (self.text(parts[0]), self.text(parts[1])) else {
                    return Err("a name that is no text".to_owned());
                };
                if module.len().max(name.len()) > LONGEST_NAME {
                    return Err(too_many("letters of a name"));
                }
                self.push(Value::Name(Name::of(module, name)?))?;
            }
            // REDUCE, NEWOBJ
            b'R' | 0x81 => {
                let parts = self.last(2)?;
                let made = self.call(parts[0], parts[1])?;
                self.push(made)?;
            }
            // What hangs on tables and tensors beside their content is of no use here.
            b'b' => {
                let state = self.last(2)?;
                match state[0] {
                    Value::Table(_) | Value::Tensor(_) => self.push(state[0])?,
                    other => return Err(format!("it gives a state to {}", kind(other))),
                }
            }
            b'Q' => {
                let place = self.pop()?;
                let storage = self.storage(place)?;
                self.push(storage)?;
            }
            other => {
                return Err(format!("opcode {other:#04x}, which no table of tensors needs"));
            }
        }
        Ok(false)
    }

    fn number(&mut self) -> Result<(), String> {
        let value = match self.opcode() {
            b'K' => Value::Whole(i64::from(self.byte()?)),
            b'M' => Value::Whole(i64::from(u16::from_le_bytes(self.array()?))),
            b'J' => Value::Whole(i64::from(i32::from_le_bytes(self.array()?))),
            // LONG1
            0x8a => {
                let length = usize::from(self.byte()?);
                let start = self.at;
                let bytes = self.take(length)?;
                if length > 8 {
                    Value::Long(Span { start, end: start + length })
                } else {
                    let sign = if bytes.last().is_some_and(|last| *last > 127) { 255 } else { 0 };
                    let mut whole = [sign; 8];
                    whole[..length].copy_from_slice(bytes);
                    Value::Whole(i64::from_le_bytes(whole))
                }
            }
            // BINFLOAT
            _ => {
                self.take(8)?;
                Value::Other
            }
        };
        self.push(value)
    }

    fn text_or_bytes(&mut self) -> Result<(), String> {
        let opcode = self.opcode();
        let length = match opcode {
            b'U' | b'C' | 0x8c => u64::from(self.byte()?),
            // BINUNICODE8
            0x8d => u64::from_le_bytes(self.array()?),
            _ => u64::from(u32::from_le_bytes(self.array()?)),
        };
        let start = self.at;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let bytes = self.take(length)?;
        if matches!(opcode, b'B' | b'C') {
            return self.push(Value::Other);
        }
        if std::str::from_utf8(bytes).is_err() {
            return Err("a text that is not UTF-8".to_owned());
        }
        self.push(Value::Text(Span { start, end: start + length }))
    }

    fn remember_or_recall(&mut self) -> Result<(), String> {
        let opcode = self.opcode();
        let place = match opcode {
            b'q' | b'h' => u32::from(self.byte()?),
            b'r' | b'j' => u32::from_le_bytes(self.array()?),
            // MEMOIZE
            _ => self.memo.len() as u32,
        };
        if matches!(opcode, b'h' | b'j') {
            let value = self.memo.get(&place).copied();
            return self.push(value.ok_or_else(|| format!("nothing is kept under {place}"))?);
        }
        let value = self.pop()?;
        self.push(value)?;
        self.memo.insert(place, value);
        if self.memo.len() > MOST_VALUES { Err(too_many("kept values")) } else { Ok(()) }
    }

    /// Makes what a call would return, for the few names that are known.
    fn call(&mut self, name: Value, arguments: Value) -> Result<Value, String> {
        let Value::Name(name) = name else {
            return Err(format!("it calls {}", kind(name)));
        };
        let Some(arguments) = self.list(arguments).map(<[Value]>::to_vec) else {
            return Err(format!("it calls a name with {}", kind(arguments)));
        };
        match (name, arguments.as_slice()) {
            (Name::OrderedDict, []) => self.new_table(Vec::new()),
            // As Python 2 wrote it: a list of pairs.
            (Name::OrderedDict, [Value::List(list)]) => {
                let items = self.lists.get(*list).cloned().unwrap_or_default();
                let pairs = items.iter().map(|item| match self.list(*item) {
                    Some([key, value]) => Ok((*key, *value)),
                    _ => Err("a table that is no list of pairs".to_owned()),
                });
                let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
                self.new_table(pairs)
            }
            (Name::Size, [sizes @ Value::List(_)]) => Ok(*sizes),
            (
                Name::Tensor,
                [storage, offset, shape, strides, _, _]
                | [storage, offset, shape, strides, _, _, _],
            ) => self.tensor(*storage, *offset, *shape, *strides),
            (Name::Parameter, [tensor @ Value::Tensor(_), _, _]) => Ok(*tensor),
            _ => Err(format!("it calls a name with {} values that do not fit it", arguments.len())),
        }
    }

    fn tensor(
        &mut self,
        storage: Value,
        offset: Value,
        shape: Value,
        strides: Value,
    ) -> Result<Value, String> {
        let (Value::Storage(storage), Value::Whole(offset)) = (storage, offset) else {
            return Err("a tensor without a storage or an offset".to_owned());
        };
        let sizes = |value| {
            let list = self.list(value).filter(|list| list.len() <= MOST_DIMENSIONS)?;
            let whole = list.iter().map(|size| match size {
                Value::Whole(size) if *size >= 0 => Some(*size),
                _ => None,
            });
            whole.collect::<Option<Vec<i64>>>()
        };
        let (Some(shape), Some(strides)) = (sizes(shape), sizes(strides)) else {
            return Err(format!(
                "a tensor whose shape or strides are not up to {MOST_DIMENSIONS} whole numbers"
            ));
        };
        let view = View { storage, offset, shape, strides };
        let held = self.storages.get(storage).map_or(0, |storage| storage.count);
        if !view.lies_within(held) {
            return Err(format!(
                "a tensor of shape {:?}, strides {:?} and offset {offset} in a storage of {held} \
                 numbers: it reaches beyond it, or repeats them (save it with `.clone()`)",
                view.shape, view.strides
            ));
        }
        if self.tensors.len() >= MOST_TENSORS {
            return Err(too_many("tensors"));
        }
        self.tensors.push(view);
        Ok(Value::Tensor(self.tensors.len() - 1))
    }

    /// Finds the storage that a persistent identifier names.
    fn storage(&mut self, place: Value) -> Result<Value, String> {
        let parts = self.list(place).unwrap_or_default();
        let [what, class, key, _, count, rest @ ..] = parts else {
            return Err("a reference that is none to a storage".to_owned());
        };
        let (Some("storage"), Value::Name(Name::Storage(numbers)), Some(key)) =
            (self.text(*what), *class, self.text(*key))
        else {
            return Err("a reference that is none to a storage of a known kind".to_owned());
        };
        if !matches!(rest, [] | [Value::None]) {
            return Err("a view of a storage, as torch wrote them before version 0.4".to_owned());
        }
        let count = match count {
            Value::Whole(count) => u64::try_from(*count).ok(),
            _ => None,
        };
        let Some(count) = count else {
            return Err(format!("storage `{key}` does not say how many numbers it holds"));
        };
        if key.len() > LONGEST_NAME {
            return Err(too_many("letters of a storage's name"));
        }
        let stored = Stored { key: key.to_owned(), numbers, count };
        match self.by_key.get(key).copied() {
            Some(known) if self.storages.get(known) == Some(&stored) => Ok(Value::Storage(known)),
            Some(_) => Err(format!("storage `{key}` is described in two ways")),
            None if self.storages.len() >= MOST_TENSORS => Err(too_many("storages")),
            None => {
                self.by_key.insert(stored.key.clone(), self.storages.len());
                self.storages.push(stored);
                Ok(Value::Storage(self.storages.len() - 1))
            }
        }
    }

    fn set_items(&mut self, items: &[Value]) -> Result<(), String> {
        self.count(items.len())?;
        let place = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        let table = match place {
            Value::Table(table) if rest.is_empty() => self.tables.get_mut(table),
            _ => None,
        };
        let Some(table) = table else {
            return Err(format!("it puts {} values into {}", items.len(), kind(place)));
        };
        table.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn append(&mut self, items: &[Value]) -> Result<(), String> {
        self.count(items.len())?;
        let place = self.top()?;
        let list = match place {
            Value::List(list) => self.lists.get_mut(list),
            _ => None,
        };
        let Some(list) = list else {
            return Err(format!("it appends to {}", kind(place)));
        };
        list.extend_from_slice(items);
        Ok(())
    }

    fn push_list(&mut self, items: Vec<Value>) -> Result<(), String> {
        self.count(items.len())?;
        if self.lists.len() >= MOST_VALUES {
            return Err(too_many("lists"));
        }
        self.lists.push(items);
        self.push(Value::List(self.lists.len() - 1))
    }

    fn push_table(&mut self, pairs: Vec<(Value, Value)>) -> Result<(), String> {
        let table = self.new_table(pairs)?;
        self.push(table)
    }

    fn new_table(&mut self, pairs: Vec<(Value, Value)>) -> Result<Value, String> {
        self.count(pairs.len())?;
        if self.tables.len() >= MOST_VALUES {
            return Err(too_many("tables"));
        }
        self.tables.push(pairs);
        Ok(Value::Table(self.tables.len() - 1))
    }

    /// Books entries of a list or table.
    fn count(&mut self, entries: usize) -> Result<(), String> {
        self.entries += entries;
        if self.entries > MOST_ENTRIES { Err(too_many("entries")) } else { Ok(()) }
    }

    fn push(&mut self, value: Value) -> Result<(), String> {
        if self.stack.len() >= MOST_VALUES {
            return Err(too_many("values"));
        }
        self.stack.push(value);
        Ok(())
    }

    /// Values since the last mark, or all.
    fn available(&self) -> usize {
        self.stack.len().saturating_sub(self.marks.last().copied().unwrap_or_default())
    }

    fn top(&self) -> Result<Value, String> {
        let top = self.stack.last().filter(|_| self.available() > 0);
        top.copied().ok_or_else(|| "a value is missing".to_owned())
    }

    fn pop(&mut self) -> Result<Value, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Takes the last values off the stack, in the order in which they were put there.
    fn last(&mut self, count: usize) -> Result<Vec<Value>, String> {
        if self.available() < count {
            return Err("a value is missing".to_owned());
        }
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn since_mark(&mut self) -> Result<Vec<Value>, String> {
        let from = self.marks.pop().ok_or_else(|| "a mark is missing".to_owned())?;
        Ok(self.stack.split_off(from.min(self.stack.len())))
    }

    /// The opcode that was read last, before any of its arguments.
    fn opcode(&self) -> u8 {
        self.at.checked_sub(1).and_then(|at| self.bytes.get(at)).copied().unwrap_or_default()
    }

    fn byte(&mut self) -> Result<u8, String> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let bytes: &'a [u8] = self.bytes;
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| bytes.get(self.at..end));
        let left = bytes.len().saturating_sub(self.at);
        let taken = taken.ok_or_else(|| {
            format!("the pickle ends {} bytes too early", count.saturating_sub(left))
        })?;
        self.at += count;
        Ok(taken)
    }

    /// A text up to the end of its line.
    fn line(&mut self) -> Result<&'a str, String> {
        let bytes: &'a [u8] = self.bytes;
        let rest = bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().take(LONGEST_NAME + 1).position(|byte| *byte == b'\n');
        let length = length.ok_or_else(|| format!("a name of more than {LONGEST_NAME} bytes"))?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| "a name that is not UTF-8".to_owned())
    }
}

impl View {
    /// Whether all its numbers lie among `count`, none of them more often than they have room.
    fn lies_within(&self, count: u64) -> bool {
        let Ok(count) = i64::try_from(count) else { return false };
        let numbers = self.shape.iter().try_fold(1i64, |product, size| product.checked_mul(*size));
        let Some(numbers) = numbers else { return false };
        if self.shape.len() != self.strides.len() || self.offset < 0 {
            return false;
        }
        if numbers == 0 {
            return true;
        }
        let reach =
            self.shape.iter().zip(&self.strides).try_fold(self.offset, |last, dimension| {
                let (size, stride) = dimension;
                (size - 1).checked_mul(*stride)?.checked_add(last)
            });
        numbers <= count && reach.is_some_and(|last| last < count)
    }
}

fn too_many(what: &str) -> String {
    format!("more {what} than a file of weights has any use for")
}

/// Names a value's kind in an error.
fn kind(value: Value) -> &'static str {
    match value {
        Value::None => "none",
        Value::Flag(_) => "a truth value",
        Value::Whole(_) | Value::Long(_) => "a whole number",
        Value::Text(_) => "a text",
        Value::Name(_) => "a name",
        Value::List(_) => "a list",
        Value::Table(_) => "a table",
        Value::Storage(_) => "a storage",
        Value::Tensor(_) => "a tensor",
        Value::Other => "something else",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problem(bytes: &[u8]) -> String {
        Pickle::read(bytes, 0).map(|_| ()).unwrap_err()
    }

    /// The pickle of one tensor: shape and strides of one dimension, in a storage of 4 numbers.
    fn tensor(offset: u8, size: u8, stride: u8) -> Vec<u8> {
        let mut bytes = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n\
                          FloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
            .to_vec();
        bytes.extend([b'K', offset, b'K', size, 0x85, b'K', stride, 0x85]);
        bytes.extend(b"\x89ccollections\nOrderedDict\n)RtR.");
        bytes
    }

    #[test]
    fn a_tensor_is_a_view_of_a_storage() {
        let bytes = tensor(1, 2, 2);
        let pickle = Pickle::read(&bytes, 0).unwrap();
        assert_eq!(pickle.root, Value::Tensor(0));
        let view = View { storage: 0, offset: 1, shape: vec![2], strides: vec![2] };
        assert_eq!(pickle.tensors, [view]);
        let stored = Stored { key: "0".to_owned(), numbers: Numbers::F32, count: 4 };
        assert_eq!(pickle.storages, [stored]);
        assert_eq!(pickle.end(), bytes.len());
    }

    #[test]
    fn a_tensor_that_leaves_its_storage_or_repeats_it_is_refused() {
        for (offset, size, stride) in [(1, 4, 1), (0, 3, 2), (5, 1, 1), (0, 5, 0)] {
            let problem = problem(&tensor(offset, size, stride));
            assert!(problem.contains("in a storage of 4 numbers"), "{problem}");
        }
        for (offset, size, stride) in [(0, 4, 1), (3, 1, 9), (0, 4, 0), (0, 0, 9)] {
            assert!(Pickle::read(&tensor(offset, size, stride), 0).is_ok());
        }
    }

    #[test]
    fn a_name_that_could_do_something_is_refused_by_name_and_place() {
        let problem = problem(b"\x80\x02cposix\nsystem\nX\x02\0\0\0ls\x85R.");
        assert!(problem.starts_with("at byte 2: it names `posix.system`"), "{problem}");
        assert!(problem.contains("nothing of a pickle is executed"), "{problem}");
        let stacked = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.";
        let problem = Pickle::read(stacked, 0).map(|_| ()).unwrap_err();
        assert!(problem.contains("`builtins.eval`"), "{problem}");
    }

    #[test]
    fn what_is_no_pickle_of_tensors_is_refused_with_its_place() {
        for (bytes, expected) in [
            (&b""[..], "at byte 0: the pickle ends 1 bytes too early"),
            (b"\x80\x09.", "at byte 0: pickle protocol 9, expected up to 5"),
            (b"\x80\x02t.", "at byte 2: a mark is missing"),
            (b"N(.", "at byte 2: a value is missing"),
            (b"h\x07.", "at byte 0: nothing is kept under 7"),
            (b"X\xff\xff\xff\xffab", "at byte 0: the pickle ends 4294967293 bytes too early"),
            (b"NNs.", "at byte 2: a value is missing"),
            (b"NNNs.", "at byte 3: it puts 2 values into none"),
            (b"NNa.", "at byte 2: it appends to none"),
            (b"N)R.", "at byte 2: it calls none"),
            (b"NNb.", "at byte 2: it gives a state to none"),
            (b"NQ.", "at byte 1: a reference that is none to a storage"),
            (b"i", "at byte 0: opcode 0x69, which no table of tensors needs"),
        ] {
            assert_eq!(problem(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn deep_nesting_and_long_stacks_end_in_an_error_or_a_value() {
        let mut nested = vec![b')'];
        nested.extend(std::iter::repeat_n(0x85, 500_000));
        nested.push(b'.');
        assert!(Pickle::read(&nested, 0).is_ok());
        let piled = vec![b'N'; MOST_VALUES + 1];
        let problem = problem(&piled);
        assert!(problem.ends_with("more values than a file of weights has any use for"));
        let itself = b"]q\0h\0a.";
        assert!(Pickle::read(itself, 0).is_ok());
    }

    #[test]
    fn whole_numbers_keep_their_sign() {
        for (bytes, expected) in [
            (&b"K\xff."[..], 255),
            (b"M\xff\xff.", 65_535),
            (b"J\xff\xff\xff\xff.", -1),
            (b"\x8a\x00.", 0),
            (b"\x8a\x01\xff.", -1),
            (b"\x8a\x02\xff\x00.", 255),
            (b"\x8a\x05\0\0\0\0\x01.", 1 << 32),
        ] {
            assert_eq!(Pickle::read(bytes, 0).unwrap().root, Value::Whole(expected), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(Pickle::read(&bytes, 0));
        }

        #[test]
        fn no_row_of_its_opcodes_makes_it_panic(
            opcodes in prop::collection::vec(
                prop::sample::select(b"N()]}tusaeqhRbQ.\x85\x86\x87\x88\x81\x94K\x01".to_vec()),
                0..300,
            ),
        ) {
            drop(Pickle::read(&opcodes, 0));
        }

        #[test]
        fn no_change_of_a_tensor_makes_it_panic(
            at in 0usize..140,
            byte in any::<u8>(),
            cut in 0usize..180,
        ) {
            let mut bytes = tensor(1, 2, 2);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            bytes.truncate(cut);
            drop(Pickle::read(&bytes, 0));
        }
    }
}
