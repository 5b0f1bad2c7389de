//! A TOML file as a tree in which every value knows where it is written.
//!
//! Reading goes key by key instead of through serde, so that all mistakes of a file are found in
//! one pass and each becomes a sentence of its own.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::nearest::nearest;
use super::units::{parse_duration, show_duration};

/// The file under check and what was found wrong with it so far.
pub(crate) struct Findings<'t> {
    file: String,
    text: &'t str,
    errors: RefCell<Vec<ConfigError>>,
}

impl<'t> Findings<'t> {
    /// No findings yet for this file.
    pub(crate) fn new(file: String, text: &'t str) -> Self {
        Self {
            file,
            text,
            errors: RefCell::default(),
        }
    }

    /// Parses the text as TOML; a text that is none is a finding.
    pub(crate) fn parse(&self) -> Option<Spanned<DeTable<'t>>> {
        let error = match DeTable::parse(self.text) {
            Ok(table) => return Some(table),
            Err(error) => error,
        };
        let at = error.span().unwrap_or(0..0);
        let line = self.text.lines().nth(self.line(at.start) - 1);
        let line = line.map(shortened).filter(|line| !line.is_empty());
        let message = one_line(error.message());
        let rule = format!("is not valid TOML, {message}");
        self.refuse(at, String::new(), line, rule);
        None
    }

    /// Every finding, in the order of the lines.
    pub(crate) fn into_errors(self) -> Vec<ConfigError> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|error| error.line);
        errors
    }

    /// Whether nothing was found wrong so far.
    pub(crate) fn is_clean(&self) -> bool {
        self.errors.borrow().is_empty()
    }

    /// Records one mistake.
    pub(crate) fn refuse(
        &self,
        at: Range<usize>,
        key: String,
        value: Option<String>,
        rule: impl Into<String>,
    ) {
        self.errors.borrow_mut().push(ConfigError {
            file: self.file.clone(),
            line: self.line(at.start),
            key: one_line(&key),
            value,
            rule: rule.into(),
        });
    }

    /// The line, from 1, of a place in the text.
    fn line(&self, at: usize) -> usize {
        let end = at.min(self.text.len());
        let before = self.text.as_bytes().iter().take(end);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    /// The text of a value as it is written, short enough for a sentence.
    fn snippet(&self, at: &Range<usize>) -> Option<String> {
        self.text.get(at.clone()).map(shortened)
    }
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    let line = one_line(text);
    if line.chars().count() <= LONGEST {
        return line;
    }
    let start: String = line.chars().take(LONGEST).collect();
    format!("{start}...")
}

/// Runs of white space become one blank, control characters are escaped.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut line = String::new();
    for character in words.join(" ").chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// One table of the file, read key by key.
pub(crate) struct Section<'a, 't> {
    findings: &'a Findings<'t>,
    path: String,
    span: Range<usize>,
    table: &'a DeTable<'t>,
    known: RefCell<Vec<&'static str>>,
    missing: RefCell<Vec<(&'static str, String)>>,
}

impl<'a, 't> Section<'a, 't> {
    /// The whole file.
    pub(crate) fn root(findings: &'a Findings<'t>, table: &'a Spanned<DeTable<'t>>) -> Self {
        Self::new(findings, String::new(), 0..0, table.get_ref())
    }

    fn new(
        findings: &'a Findings<'t>,
        path: String,
        span: Range<usize>,
        table: &'a DeTable<'t>,
    ) -> Self {
        Self {
            findings,
            path,
            span,
            table,
            known: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    /// The entry of this key, if it is there.
    pub(crate) fn optional(&self, key: &'static str) -> Option<Entry<'a, 't>> {
        self.known.borrow_mut().push(key);
        self.table.get(key).map(|value| self.entry(key, value))
    }

    /// The entry of this key; it is a finding when it is missing.
    pub(crate) fn required(&self, key: &'static str, rule: &str) -> Option<Entry<'a, 't>> {
        let entry = self.optional(key);
        if entry.is_none() {
            self.missing.borrow_mut().push((key, rule.to_owned()));
        }
        entry
    }

    /// What `read` makes of the entry, or the default when there is none.
    ///
    /// A value that breaks a rule is a finding, so that the default which then stands in for it
    /// is never used.
    pub(crate) fn or_default<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Entry<'a, 't>) -> Option<T>,
    ) -> T {
        self.optional(key)
            .and_then(|entry| read(&entry))
            .unwrap_or(default)
    }

    /// Every entry, for tables whose keys are names, in the order of the file.
    pub(crate) fn entries(&self) -> Vec<(String, Entry<'a, 't>)> {
        let mut entries: Vec<_> = self.table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
            .into_iter()
            .map(|(key, value)| {
                let mut entry = self.entry(key.get_ref(), value);
                entry.key_span = key.span();
                (key.get_ref().to_string(), entry)
            })
            .collect()
    }

    /// Ends the reading: keys nobody asked for and keys that are missing become findings.
    pub(crate) fn finish(self) {
        let known = self.known.borrow();
        let mut meant = Vec::new();
        for (key, value) in self.table {
            if known.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let near = nearest(key.get_ref(), known.iter().copied());
            meant.extend(near);
            let rule = match near {
                Some(near) => format!("unknown key, did you mean \"{near}\"?"),
                None => format!("unknown key, the keys here are {}", known.join(", ")),
            };
            let entry = self.entry(key.get_ref(), value);
            self.findings
                .refuse(key.span(), entry.path.clone(), entry.shown(), rule);
        }
        for (key, rule) in self.missing.borrow().iter() {
            // A misspelt key is one mistake, not two.
            if meant.contains(key) {
                continue;
            }
            let path = join(&self.path, key);
            let inside = self.findings.snippet(&self.span);
            let key = match inside.filter(|inside| inside.starts_with('{')) {
                Some(inside) => format!("{path} is missing in {inside}"),
                None => format!("{path} is missing"),
            };
            self.findings.refuse(self.span.clone(), key, None, rule);
        }
    }

    fn entry(&self, key: &str, value: &'a Spanned<DeValue<'t>>) -> Entry<'a, 't> {
        Entry {
            findings: self.findings,
            path: join(&self.path, key),
            key_span: value.span(),
            value,
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// One value of the file, with its key and its place.
#[derive(Clone)]
pub(crate) struct Entry<'a, 't> {
    findings: &'a Findings<'t>,
    path: String,
    key_span: Range<usize>,
    value: &'a Spanned<DeValue<'t>>,
}

impl<'a, 't> Entry<'a, 't> {
    /// Records that this value breaks a rule.
    pub(crate) fn refuse(&self, rule: impl Into<String>) {
        let key = self.path.clone();
        self.findings
            .refuse(self.value.span(), key, self.shown(), rule);
    }

    /// Records that the key itself, a name, breaks a rule.
    pub(crate) fn refuse_key(&self, rule: impl Into<String>) {
        let key = self.path.clone();
        self.findings.refuse(self.key_span.clone(), key, None, rule);
    }

    /// The line on which the value starts, from 1.
    pub(crate) fn line(&self) -> usize {
        self.findings.line(self.value.span().start)
    }

    /// What `parse` makes of the string; its error is the rule.
    pub(crate) fn parsed<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let read = match self.value.get_ref().as_str() {
            Some(text) => parse(text),
            // No string at all: the rule for an empty one tells what is expected.
            None => Err(parse("").err().unwrap_or_else(|| "must be a string".into())),
        };
        read.map_err(|rule| self.refuse(rule)).ok()
    }

    /// A boolean.
    pub(crate) fn flag(&self) -> Option<bool> {
        let flag = self.value.get_ref().as_bool();
        if flag.is_none() {
            self.refuse("must be true or false");
        }
        flag
    }

    /// A whole number of this range.
    pub(crate) fn number(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let number = self
            .value
            .get_ref()
            .as_integer()
            .and_then(|integer| i64::from_str_radix(integer.as_str(), integer.radix()).ok())
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number));
        if number.is_none() {
            let (least, most) = range.into_inner();
            self.refuse(format!("must be a whole number from {least} to {most}"));
        }
        number
    }

    /// A duration of this range.
    pub(crate) fn duration(
        &self,
        range: RangeInclusive<std::time::Duration>,
    ) -> Option<std::time::Duration> {
        let duration = self.parsed(parse_duration)?;
        if range.contains(&duration) {
            return Some(duration);
        }
        let (least, most) = range.into_inner();
        let (least, most) = (show_duration(least), show_duration(most));
        self.refuse(format!("must be from {least} to {most}"));
        None
    }

    /// The elements of a list with at least one element; anything else breaks the rule.
    pub(crate) fn list(&self, rule: &str) -> Option<Vec<Self>> {
        let array = self.value.get_ref().as_array();
        let Some(array) = array.filter(|array| !array.is_empty()) else {
            self.refuse(rule);
            return None;
        };
        let element = |value| Self {
            findings: self.findings,
            path: self.path.clone(),
            key_span: self.key_span.clone(),
            value,
        };
        Some(array.iter().map(element).collect())
    }

    /// The table that this value is; anything else breaks the rule.
    pub(crate) fn section(&self, rule: &str) -> Option<Section<'a, 't>> {
        let Some(table) = self.value.get_ref().as_table() else {
            self.refuse(rule);
            return None;
        };
        let span = self.value.span();
        Some(Section::new(self.findings, self.path.clone(), span, table))
    }

    /// The value as it is written; nothing for a table that has a header line of its own.
    fn shown(&self) -> Option<String> {
        self.findings
            .snippet(&self.value.span())
            .filter(|snippet| match self.value.get_ref() {
                DeValue::Table(_) => snippet.starts_with('{'),
                DeValue::Array(_) => !snippet.starts_with("[["),
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_) => true,
            })
    }
}
