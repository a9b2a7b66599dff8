//! How the code stands: docs/architecture.md says it, and this keeps it so. It reads src/ and needs no server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules, such as `source::queue::keys`, and their text without tests and comments.
fn modules() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    let mut found = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.insert(module_of(&root, &path), code(&fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

fn module_of(root: &Path, path: &Path) -> String {
    let inner: PathBuf = path.strip_prefix(root).unwrap().with_extension("");
    let parts: Vec<_> = inner.iter().map(|part| part.to_str().unwrap()).filter(|part| *part != "mod").collect();
    parts.join("::")
}

fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]").next().unwrap();
    text.lines().map(|line| line.split("// ").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The paths that one `use` names: `a::{b, c::{d, e}}` is a::b, a::c::d and a::c::e.
fn paths(item: &str) -> Vec<String> {
    let item = item.trim();
    let Some((head, rest)) = item.split_once('{') else {
        return vec![item.split(" as ").next().unwrap().trim().to_string()];
    };
    let (mut depth, mut part, mut parts) = (0, String::new(), Vec::new());
    for c in rest.trim_end().trim_end_matches('}').chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(c);
        }
    }
    parts.push(part);
    parts
        .iter()
        .filter(|part| !part.trim().is_empty())
        .flat_map(|part| paths(&format!("{head}{}", part.trim())))
        .collect()
}

/// For each module, those that it imports.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let modules = modules();
    let resolve = |path: &str| {
        let parts: Vec<_> = path.split("::").collect();
        (1..=parts.len()).rev().map(|length| parts[..length].join("::")).find(|module| modules.contains_key(module))
    };
    let mut imports = BTreeMap::new();
    for (module, code) in &modules {
        let mut found = BTreeSet::new();
        for item in code.split("use ").skip(1).filter_map(|rest| rest.split(';').next()) {
            for path in paths(item) {
                let mut base: Vec<&str> = module.split("::").collect();
                let mut path = path.as_str();
                if let Some(rest) = path.strip_prefix("crate::") {
                    (base, path) = (Vec::new(), rest);
                } else if path.starts_with("super::") {
                    while let Some(rest) = path.strip_prefix("super::") {
                        base.pop();
                        path = rest;
                    }
                }
                base.push(path);
                found.extend(resolve(&base.join("::")).filter(|imported| imported != module));
            }
        }
        for path in code.split("crate::").skip(1) {
            let path: String = path.chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
            found.extend(resolve(path.trim_end_matches(':')).filter(|imported| imported != module));
        }
        imports.insert(module.clone(), found);
    }
    imports
}

/// The floors, the lowest first. Two that know nothing of each other stand on the same one.
fn floor(module: &str) -> usize {
    let room = module.split("::").next().unwrap();
    let floors: [&[&str]; 8] = [
        &["error", "settings"],
        &["backend"],
        &["shape"],
        &["job"],
        &["source", "destination"],
        &["method"],
        &["check", "schedule"],
        &["api"],
    ];
    floors.iter().position(|rooms| rooms.contains(&room)).unwrap_or(floors.len())
}

#[test]
fn nothing_imports_upward() {
    let mut wrong = Vec::new();
    for (module, imported) in imports() {
        for imported in imported {
            let same_room = module.split("::").next() == imported.split("::").next();
            let (from, to) = (floor(&module), floor(&imported));
            if !same_room && to >= from {
                wrong.push(format!("{module} imports {imported}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_modules_import_each_other() {
    let imports = imports();
    let reaches = |from: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = open.pop() {
            for next in imports.get(&module).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    let circles: Vec<_> =
        imports.keys().filter(|module| *module != "lib" && reaches(module).contains(*module)).collect();
    assert!(circles.is_empty(), "in circles: {circles:#?}");
}

#[test]
fn only_compat_knows_versions_of_postgresql() {
    let modules = modules();
    let asks: Vec<_> = modules
        .iter()
        .filter(|(module, _)| *module != "backend::compat")
        .filter(|(_, code)| {
            code.contains("feature = \"pg1")
                || code.contains("feature = \"pre_pg")
                || code.contains("unsafe extern \"C-unwind\" {")
        })
        .map(|(module, _)| module)
        .collect();
    assert!(asks.is_empty(), "{asks:#?}");
}

#[test]
fn nobody_compares_the_text_of_a_sqlstate() {
    let modules = modules();
    let compares: Vec<_> = modules
        .iter()
        .filter(|(_, code)| {
            code.lines().any(|line| {
                line.contains("sqlstate")
                    && line.split('"').skip(1).step_by(2).any(|text| {
                        text.len() == 5
                            && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
                            && text.chars().any(|c| c.is_ascii_digit())
                    })
            })
        })
        .map(|(module, _)| module)
        .collect();
    assert!(compares.is_empty(), "{compares:#?}");
}

/// A longer function has a reason, which stands here.
const LONG: [(&str, &str); 4] = [
    ("words", "one match over all errors, so that the words of each stand together"),
    ("make_objects", "a maker refuses all that can be refused before it makes anything, in one order"),
    ("tell", "one step of plan_refresh after the other"),
    ("localise", "one query with the rules for each kind of type"),
];

#[test]
fn functions_are_short() {
    const MOST: usize = 80;
    let mut long = Vec::new();
    for (module, code) in modules() {
        let lines: Vec<_> = code.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let Some(name) = line.split("fn ").nth(1) else { continue };
            // What only declares a function ends with a semicolon.
            let signature =
                lines[number..].iter().map(|line| line.trim_end()).find(|line| line.ends_with(['{', ';', '}']));
            if !signature.is_some_and(|end| end.ends_with('{')) {
                continue;
            }
            let indent = line.len() - line.trim_start().len();
            let end = format!("{}}}", " ".repeat(indent));
            let length = lines[number..].iter().position(|line| *line == end).unwrap_or(0) + 1;
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if length > MOST && !name.is_empty() && !LONG.iter().any(|(long, _)| *long == name) {
                long.push(format!("{module}::{name} has {length} lines"));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}
