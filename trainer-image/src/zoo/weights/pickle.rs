//! Reads Python's pickles as data. Nothing is ever called: what a pickle asks to be built stays a note of what was asked,
//! and [`pth`](super::pth) makes tensors of the few things it knows.
//!
//! It has the instructions of protocols 2 to 5 that `torch.save` and its like write (`Lib/pickletools.py` of CPython
//! describes them).

use std::collections::HashMap;

/// Most values of a pickle, and most of them on its stack or noted: a state dict has some thousands, a checkpoint with an
/// optimizer and the course of a training some more. Of each byte of a pickle, dozens may be made.
const MOST_VALUES: usize = 1 << 22;

/// Index of a node in its [`Pickle`].
pub(super) type Id = usize;

/// What a pickle holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// Also sets.
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A name that Python would import: `module.name`.
    Global(String),
    /// What a call of `callable` would give, and what would then be put into it as into a dict.
    Call {
        callable: Id,
        arguments: Id,
        items: Vec<(Id, Id)>,
    },
    /// Something outside of the pickle.
    Persistent(Id),
}

/// Why bytes are no pickle that this reader understands.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// The bytes end too early.
    #[error("the pickle ends in the middle")]
    Truncated,
    /// An instruction that `torch.save` doesn't write for a state dict.
    #[error("the pickle has the instruction {0:#04x}, which no state dict needs")]
    Instruction(u8),
    /// An instruction where it makes no sense.
    #[error("the pickle is damaged: {0}")]
    Damaged(&'static str),
}

/// A pickle, read.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    root: Id,
}

impl Pickle {
    /// Reads one pickle, and says how many bytes it has.
    pub(super) fn read(bytes: &[u8]) -> Result<(Pickle, usize), PickleError> {
        let mut machine = Machine { input: Input { bytes, at: 0 }, ..Machine::default() };
        let root = machine.run()?;
        Ok((Pickle { nodes: machine.nodes, root }, machine.input.at))
    }

    pub(super) fn root(&self) -> Id {
        self.root
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// What lies outside of the pickle, each as it is called there.
    pub(super) fn persistent(&self) -> impl Iterator<Item = Id> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Persistent(id) => Some(*id),
            _ => None,
        })
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn int(&self, id: Id) -> Option<i64> {
        match *self.node(id) {
            Node::Int(value) => i64::try_from(value).ok(),
            _ => None,
        }
    }

    /// The elements of a tuple or a list.
    pub(super) fn elements(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(elements) | Node::List(elements) => Some(elements),
            _ => None,
        }
    }

    /// The name of what would be imported.
    pub(super) fn global(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Global(name) => Some(name),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Input<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Input<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], PickleError> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..count).ok_or(PickleError::Truncated)?;
        self.at += count;
        Ok(taken)
    }

    /// An unsigned number of up to 8 bytes.
    fn number(&mut self, bytes: usize) -> Result<usize, PickleError> {
        let value = self.take(bytes)?.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        usize::try_from(value).map_err(|_| PickleError::Truncated)
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.take(1)?[0])
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let length = self.bytes[self.at..].iter().position(|&byte| byte == b'\n').ok_or(PickleError::Truncated)?;
        let line = text(self.take(length)?)?;
        self.at += 1;
        Ok(line)
    }

    /// A signed number of as many bytes as there are.
    fn signed(&mut self, bytes: usize) -> Result<i128, PickleError> {
        let bytes = self.take(bytes)?;
        if bytes.len() > 16 {
            return Err(PickleError::Damaged("a number of more than 16 bytes"));
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        Ok(bytes.iter().rev().fold(if negative { -1 } else { 0 }, |value, &byte| value << 8 | i128::from(byte)))
    }
}

fn text(bytes: &[u8]) -> Result<String, PickleError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| PickleError::Damaged("a text that is not UTF-8"))
}

/// The stack machine that a pickle is a program for.
#[derive(Default)]
struct Machine<'b> {
    input: Input<'b>,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks set.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id, PickleError> {
        loop {
            if self.nodes.len().max(self.stack.len()).max(self.memo.len()) > MOST_VALUES {
                return Err(PickleError::Damaged("it has more values than any state dict"));
            }
            let instruction = self.input.byte()?;
            match instruction {
                b'.' => return self.pop(),
                // PROTO, FRAME
                0x80 => drop(self.input.take(1)?),
                0x95 => drop(self.input.take(8)?),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                b'q' | b'r' | 0x94 => {
                    let place = match instruction {
                        b'q' => self.input.number(1)?,
                        b'r' => self.input.number(4)?,
                        _ => self.memo.len(),
                    };
                    let top = self.top()?;
                    self.memo.insert(place, top);
                }
                b'h' | b'j' => {
                    let place = self.input.number(if instruction == b'h' { 1 } else { 4 })?;
                    let known = self.memo.get(&place).ok_or(PickleError::Damaged("it refers to what is not there"))?;
                    self.stack.push(*known);
                }
                b'a' | b'e' | 0x90 => {
                    let added = if instruction == b'a' { vec![self.pop()?] } else { self.pop_mark()? };
                    let top = self.top()?;
                    // Into what was not built, nothing is put.
                    if let Node::List(elements) = &mut self.nodes[top] {
                        elements.extend(added);
                    }
                }
                b's' | b'u' => {
                    let added = if instruction == b's' { self.pop_many(2)? } else { self.pop_mark()? };
                    let top = self.top()?;
                    if let Node::Dict(items) | Node::Call { items, .. } = &mut self.nodes[top] {
                        items.extend(added.chunks_exact(2).map(|pair| (pair[0], pair[1])));
                    }
                }
                // REDUCE, NEWOBJ
                b'R' | 0x81 => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    self.push(Node::Call { callable, arguments, items: Vec::new() });
                }
                // BUILD: attributes of an object, of which none counts.
                b'b' => drop(self.pop()?),
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Node::Persistent(id));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Node::Text(module), Node::Text(name)) = (&self.nodes[module], &self.nodes[name]) else {
                        return Err(PickleError::Damaged("a name to import that is no text"));
                    };
                    let global = Node::Global(format!("{module}.{name}"));
                    self.push(global);
                }
                _ => {
                    let value = self.value(instruction)?;
                    self.push(value);
                }
            }
        }
    }

    /// The instructions that push a value.
    fn value(&mut self, instruction: u8) -> Result<Node, PickleError> {
        let input = &mut self.input;
        Ok(match instruction {
            b'N' => Node::None,
            0x88 => Node::Bool(true),
            0x89 => Node::Bool(false),
            b'J' => Node::Int(input.signed(4)?),
            b'K' => Node::Int(input.number(1)? as i128),
            b'M' => Node::Int(input.number(2)? as i128),
            0x8a => {
                let length = input.number(1)?;
                Node::Int(input.signed(length)?)
            }
            b'G' => Node::Float(f64::from_bits(input.number(8).map(|bits| (bits as u64).swap_bytes())?)),
            // Texts, and Python 2's strings, which are texts where they are names.
            b'X' | b'T' => {
                let length = input.number(4)?;
                Node::Text(text(input.take(length)?)?)
            }
            0x8c | b'U' => {
                let length = input.number(1)?;
                Node::Text(text(input.take(length)?)?)
            }
            b'B' | b'C' => {
                let length = input.number(if instruction == b'B' { 4 } else { 1 })?;
                Node::Bytes(input.take(length)?.to_vec())
            }
            b'c' => Node::Global(format!("{}.{}", input.line()?, input.line()?)),
            b']' | 0x8f => Node::List(Vec::new()),
            b'}' => Node::Dict(Vec::new()),
            b')' => Node::Tuple(Vec::new()),
            0x85..=0x87 => Node::Tuple(self.pop_many(usize::from(instruction - 0x84))?),
            b't' => Node::Tuple(self.pop_mark()?),
            b'l' | 0x91 => Node::List(self.pop_mark()?),
            b'd' => Node::Dict(self.pop_mark()?.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()),
            other => return Err(PickleError::Instruction(other)),
        })
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    /// Height of the stack at the last mark: what lies below is not to be touched before the mark is.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, PickleError> {
        self.stack[self.floor()..].last().copied().ok_or(PickleError::Damaged("it takes more than there is"))
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, PickleError> {
        match self.stack.len().checked_sub(count) {
            Some(first) if first >= self.floor() => Ok(self.stack.split_off(first)),
            _ => Err(PickleError::Damaged("it takes more than there is")),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let mark = self.marks.pop().ok_or(PickleError::Damaged("it goes back to a mark that is not there"))?;
        Ok(self.stack.split_off(mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Pickle, PickleError> {
        Pickle::read(bytes).map(|(pickle, _)| pickle)
    }

    #[test]
    fn what_would_be_called_is_noted_and_not_called() {
        // `pickletools.dis` of what `os.system` with "touch x" pickles as.
        let pickle = read(b"\x80\x02cposix\nsystem\nq\x00X\x07\x00\x00\x00touch xq\x01\x85q\x02Rq\x03.").unwrap();
        let Node::Call { callable, arguments, .. } = pickle.node(pickle.root()) else { panic!("{pickle:?}") };
        assert_eq!(pickle.global(*callable), Some("posix.system"));
        assert_eq!(pickle.text(pickle.elements(*arguments).unwrap()[0]), Some("touch x"));
    }

    #[test]
    fn numbers_have_their_sign_and_order() {
        let table: [(&[u8], Node); 7] = [
            (b"J\xff\xff\xff\xff.", Node::Int(-1)),
            (b"K\xff.", Node::Int(255)),
            (b"M\x00\x01.", Node::Int(256)),
            (b"\x8a\x00.", Node::Int(0)),
            (b"\x8a\x02\x00\x80.", Node::Int(-32768)),
            (b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", Node::Int(0x1950_a86a_20f9_469c_fc6c)),
            (b"G\x3f\xf8\x00\x00\x00\x00\x00\x00.", Node::Float(1.5)),
        ];
        for (bytes, expected) in table {
            let pickle = read(bytes).unwrap();
            assert_eq!(pickle.node(pickle.root()), &expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_dict_that_is_filled_after_it_was_noted_is_the_same_dict() {
        // d = {}; d["a"] = d
        let pickle = read(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.").unwrap();
        let Node::Dict(items) = pickle.node(pickle.root()) else { panic!("{pickle:?}") };
        assert_eq!(items[0].1, pickle.root());
    }

    #[test]
    fn a_pickle_of_very_many_values_is_refused() {
        let many = |instruction: u8| [&b"N"[..], &vec![instruction; MOST_VALUES + 1], b"."].concat();
        // NONE, DUP, MEMOIZE
        for instruction in [b'N', b'2', 0x94] {
            let refusal = read(&many(instruction)).unwrap_err();
            assert_eq!(refusal, PickleError::Damaged("it has more values than any state dict"));
        }
    }

    #[test]
    fn damaged_pickles_are_errors() {
        let table: [(&[u8], PickleError); 8] = [
            (b"", PickleError::Truncated),
            (b"X\x05\x00\x00\x00ab", PickleError::Truncated),
            (b".", PickleError::Damaged("it takes more than there is")),
            (b"N(\x85.", PickleError::Damaged("it takes more than there is")),
            (b"t.", PickleError::Damaged("it goes back to a mark that is not there")),
            (b"h\x07.", PickleError::Damaged("it refers to what is not there")),
            (b"\x8a\x11aaaaaaaaaaaaaaaaa.", PickleError::Damaged("a number of more than 16 bytes")),
            // INST, of protocol 0.
            (b"(iposix\nsystem\n.", PickleError::Instruction(b'i')),
        ];
        for (bytes, expected) in table {
            assert_eq!(read(bytes).unwrap_err(), expected, "{bytes:?}");
        }
    }
}
