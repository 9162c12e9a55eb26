//! The files of an old mailroot, and what each is by its name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::report::{AREAS, Area, Named};

/// Most files in one mailroot.
const MOST_FILES: usize = 500_000;

/// A file of an area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) area: Area,
    pub(super) path: PathBuf,
    /// From the mailroot on.
    pub(super) name: String,
}

/// What a file is by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Mail,
    Bad,
}

pub(super) fn kind(found: &Found) -> Result<Kind, &'static str> {
    let name = found.name.to_ascii_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    match found.area {
        _ if ends(&[":properties", ":properties-live", ".properties", ".stm", ".stl", ":$data"]) => {
            Err("a property file; its form is not published")
        }
        _ if ends(&[".ltr", ".rtr"]) => Err("a transcript of a session, no message"),
        Area::Pickup | Area::Drop if ends(&[".tmp"]) => Err("a file that was still being written"),
        Area::Pickup | Area::Drop => Ok(Kind::Mail),
        Area::Queue if ends(&[".eml"]) => Ok(Kind::Mail),
        Area::Queue => Err("no message by its name; those in Queue end in .eml"),
        Area::Badmail if ends(&[".bad", ".eml"]) => Ok(Kind::Bad),
        Area::Badmail if ends(&[".bdr"]) => Err("the reason for a .bad file, imported with it"),
        Area::Badmail if ends(&[".bdp"]) => Err("properties of a .bad file; their form is not published"),
        Area::Badmail => Err("no message by its name; those in Badmail end in .bad"),
    }
}

/// The files of a mailroot, in order, and what was passed over. The mailroot itself may have the four directories, or virtual
/// servers' directories (`vsi 1`) that have them.
pub(super) fn list(root: &Path, areas: &[Area]) -> io::Result<(Vec<Found>, Vec<Named>)> {
    let (mut files, mut passed_over) = (Vec::new(), Vec::new());
    let mut roots = vec![(root.to_owned(), String::new())];
    for (name, path) in directories(root)? {
        if name.to_ascii_lowercase().starts_with("vsi ") {
            roots.push((path, format!("{name}/")));
        }
    }
    let mut known = 0;
    for (root, prefix) in roots {
        for (name, path) in directories(&root)? {
            let area = AREAS.into_iter().find(|area| format!("{area:?}").eq_ignore_ascii_case(&name));
            let Some(area) = area.filter(|area| areas.contains(area)) else { continue };
            known += 1;
            for entry in fs::read_dir(&path)? {
                let entry = entry?;
                let file = entry.file_name().to_string_lossy().into_owned();
                let name = format!("{prefix}{name}/{file}");
                if files.len() + passed_over.len() >= MOST_FILES {
                    return Err(io::Error::other(format!("there are more than {MOST_FILES} files in it")));
                }
                match entry.file_type()? {
                    kind if kind.is_file() => files.push(Found { area, path: entry.path(), name }),
                    kind if kind.is_symlink() => {
                        passed_over.push(Named { file: name, why: "a link; links are not followed".to_owned() });
                    }
                    _ => passed_over.push(Named { file: name, why: "no plain file".to_owned() }),
                }
            }
        }
    }
    if known == 0 {
        return Err(io::Error::other(
            "it has none of the directories Pickup, Queue, Badmail and Drop that were asked for",
        ));
    }
    files.sort_by(|a, b| (a.area, &a.name).cmp(&(b.area, &b.name)));
    Ok((files, passed_over))
}

/// The directories in one, by name; links are none.
fn directories(path: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)?.take(10_000) {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_every_virtual_server_and_links_are_named() {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("vsi 1/Queue/NTFS_1.EML", "x"),
            ("vsi 1/Queue/a.LTR", "x"),
            ("vsi 2/PICKUP/b.txt", "x"),
            ("Drop/c.eml", "x"),
            ("Badmail/d.BAD", "x"),
            ("SortTemp/e", "x"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        std::os::unix::fs::symlink("/etc", root.path().join("Pickup")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("Drop/l.eml")).unwrap();
        let (files, passed_over) = list(root.path(), &AREAS).unwrap();
        let names: Vec<_> = files.iter().map(|found| found.name.as_str()).collect();
        let expected =
            ["vsi 2/PICKUP/b.txt", "vsi 1/Queue/NTFS_1.EML", "vsi 1/Queue/a.LTR", "Badmail/d.BAD", "Drop/c.eml"];
        assert_eq!(names, expected);
        assert_eq!(passed_over.iter().map(|named| named.file.as_str()).collect::<Vec<_>>(), ["Drop/l.eml"]);
        let kinds: Vec<_> = files.iter().map(|found| kind(found).ok()).collect();
        assert_eq!(kinds, [Some(Kind::Mail), Some(Kind::Mail), None, Some(Kind::Bad), Some(Kind::Mail)]);
        assert_eq!(list(root.path(), &[Area::Drop]).unwrap().0.len(), 1);
        assert!(list(&root.path().join("SortTemp"), &AREAS).is_err());
    }
}
