//! The product's source as tokens: which functions there are, and which of them are one function written twice.
//!
//! Comments, blanks and the names of parameters aside, two bodies of the same tokens are the same code. Tests are no
//! part of the product.

use std::path::Path;

use crate::tidy::{File, Tree};
use crate::verdict::{Halt, instrument};

/// A function of the product.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its file, from the root.
    pub path: String,
    /// Its name.
    pub name: String,
    /// Line of its `fn`, from 1.
    pub line: usize,
    /// Lines of its body.
    pub lines: usize,
    /// Tokens of its body.
    pub tokens: Vec<String>,
}

/// The tree below a root. A tree without an engine is no tree.
pub fn tree(root: &Path) -> Result<Tree, Halt> {
    let tree = Tree::read(root);
    match tree.file("engine/src/lib.rs") {
        Some(_) => Ok(tree),
        None => Err(instrument(format!("no source tree at {}", root.display()))),
    }
}

/// Every function of the product.
pub fn functions(tree: &Tree) -> Vec<Function> {
    tree.product().flat_map(in_file).collect()
}

/// Pairs of functions of at least `lines` lines with the same body, one of each kind.
pub fn twins(
    all: &[Function],
    lines: usize,
    one: impl Fn(&Function) -> bool,
    other: impl Fn(&Function) -> bool,
) -> Vec<(&Function, &Function)> {
    let long = |f: &&Function| f.lines >= lines;
    let of_other: Vec<&Function> = all.iter().filter(long).filter(|f| other(f)).collect();
    let mut found = Vec::new();
    for a in all.iter().filter(long).filter(|f| one(f)) {
        let same = |b: &&&Function| (&b.path, b.line) != (&a.path, a.line) && b.tokens == a.tokens;
        found.extend(of_other.iter().filter(same).map(|b| (a, *b)));
    }
    found
}

fn in_file(file: &File) -> Vec<Function> {
    let mut text = String::new();
    let mut last = 0;
    for (n, line) in file.code() {
        // Lines that are no code stay as empty ones, so that counting is right.
        text.extend(std::iter::repeat_n('\n', n - last - 1));
        text.push_str(line);
        text.push('\n');
        last = n;
    }
    let tokens = tokens(&text);
    let mut found = Vec::new();
    for (i, pair) in tokens.windows(2).enumerate() {
        if pair[0].1 != "fn" || !is_word(&pair[1].1) {
            continue;
        }
        // The body begins at the first brace outside all brackets; a declaration has none.
        let mut depth = 0i32;
        let begin = tokens[i..].iter().position(|(_, t)| {
            match t.as_str() {
                "(" | "[" => depth += 1,
                ")" | "]" => depth -= 1,
                _ => {}
            }
            depth == 0 && matches!(t.as_str(), "{" | ";")
        });
        let Some(begin) = begin.map(|b| i + b).filter(|b| tokens[*b].1 == "{") else { continue };
        let mut depth = 0i32;
        let length = tokens[begin..].iter().position(|(_, t)| {
            match t.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let Some(end) = length.map(|n| begin + n) else { continue };
        found.push(Function {
            path: file.path.clone(),
            name: pair[1].1.clone(),
            line: tokens[i].0,
            lines: tokens[end].0 - tokens[begin].0 + 1,
            tokens: tokens[begin..=end].iter().map(|(_, t)| t.clone()).collect(),
        });
    }
    found
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Line and text of every token: words, numbers, literals, and every other character by itself.
fn tokens(text: &str) -> Vec<(usize, String)> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let start = i;
        let c = chars[i];
        i += 1;
        match c {
            '/' if chars.get(i) == Some(&'/') => i = until(&chars, i, |c| c == '\n'),
            '"' => i = string_end(&chars, i),
            // `r"` and `r#"`; in `r#type` there is no quote.
            'r' | 'b' if raw_end(&chars, start).is_some() => i = raw_end(&chars, start).unwrap_or(i),
            // A character, not a lifetime.
            '\'' if chars.get(i) == Some(&'\\') => i = until(&chars, i + 2, |c| c == '\'') + 1,
            '\'' if chars.get(i + 1) == Some(&'\'') => i += 2,
            _ if c.is_alphanumeric() || c == '_' => i = until(&chars, i, |c| !c.is_alphanumeric() && c != '_'),
            _ => {}
        }
        i = i.min(chars.len());
        let token: String = chars[start..i].iter().collect();
        let comment = token.starts_with("//");
        if !comment && !c.is_whitespace() {
            found.push((line, token));
        }
        line += chars[start..i].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn until(chars: &[char], from: usize, end: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|i| end(chars[*i])).unwrap_or(chars.len())
}

fn string_end(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() && chars[i] != '"' {
        i += 1 + usize::from(chars[i] == '\\');
    }
    i + 1
}

/// Where the raw string that begins here ends.
fn raw_end(chars: &[char], start: usize) -> Option<usize> {
    let quote = until(chars, start, |c| !matches!(c, 'b' | 'r' | '#'));
    let prefix: String = chars[start..quote].iter().collect();
    let hashes = prefix.trim_start_matches('b').strip_prefix('r')?;
    if chars.get(quote) != Some(&'"') || hashes.contains(['b', 'r']) {
        return None;
    }
    let closing: Vec<char> = std::iter::once('"').chain(hashes.chars()).collect();
    let after = quote + 1;
    let at = chars[after..].windows(closing.len()).position(|w| w == closing)?;
    Some(after + at + closing.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::testing::tree;

    #[test]
    fn functions_are_found_with_their_bodies() {
        let text = "fn a<'x>(s: &'x str) -> [u8; 2] { let c = '{'; let s = \"}\\\"{\"; // }\n g(r#\"}\"#) }\n\
                    trait T { fn b(&self); }\nimpl T for u8 {\n  fn b(&self) {}\n}\n";
        let t = tree(&[("engine/src/x.rs", text)]);
        let found = functions(&t);
        let names: Vec<(&str, usize, usize)> = found.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
        assert_eq!(names, [("a", 1, 2), ("b", 5, 1)]);
        assert_eq!(found[0].tokens.iter().filter(|t| *t == "{").count(), 1);
    }

    #[test]
    fn a_twin_is_the_same_body_whatever_its_name_blanks_and_comments() {
        let (a, b) = ("fn a(x: u8) {\n  f(x);\n  g(x)\n}", "// b\nfn b(x: u8) {\n\n  f( x ); // f\n  g(x)\n}");
        let t = tree(&[("engine/src/x.rs", a), ("apr/src/y.rs", b), ("apr/src/z.rs", "fn c() {\n h();\n h()\n}")]);
        let all = functions(&t);
        let engine = |f: &Function| f.path.starts_with("engine/");
        let found = twins(&all, 3, engine, |f| !engine(f));
        assert_eq!(found.iter().map(|(a, b)| (a.name.as_str(), b.name.as_str())).collect::<Vec<_>>(), [("a", "b")]);
        assert!(twins(&all, 9, engine, |f| !engine(f)).is_empty());
    }
}
