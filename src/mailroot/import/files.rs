//! The files of an old mailroot, and what each is by its name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::report::{AREAS, Area, Named};

/// Most files in one mailroot.
const MOST_FILES: usize = 500_000;
/// How the directories of virtual servers begin.
pub(super) const VIRTUAL_SERVER: &str = "vsi ";

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

/// The files of a mailroot, in order, and what was passed over: every file beside them, with its place, up to [`MOST_FILES`] of
/// both. The mailroot itself may have the four directories, or virtual servers' directories (`vsi 1`) that have them.
pub(super) fn list(root: &Path, areas: &[Area]) -> io::Result<(Vec<Found>, Vec<Named>)> {
    let mut listing = Listing::default();
    let (mut roots, mut known) = (vec![(root.to_owned(), String::new())], 0);
    while let Some((root, prefix)) = roots.pop() {
        for (name, entry) in entries(&root)? {
            let (path, place) = (entry.path(), format!("{prefix}{name}"));
            if !entry.file_type()?.is_dir() {
                listing.pass_over(&entry, place, "a file beside the directories of a mailroot")?;
                continue;
            }
            let area = AREAS.into_iter().find(|area| format!("{area:?}").eq_ignore_ascii_case(&name));
            match area {
                Some(area) if areas.contains(&area) => {
                    known += 1;
                    listing.area(area, &path, &place)?;
                }
                Some(_) => listing.name(place, "a directory that was not asked for".to_owned())?,
                None if prefix.is_empty() && name.to_ascii_lowercase().starts_with(VIRTUAL_SERVER) => {
                    roots.push((path, format!("{place}/")));
                }
                None => listing.beside(&path, &place, "in a directory of which no mail is imported")?,
            }
        }
    }
    if known == 0 {
        return Err(io::Error::other(
            "it has none of the directories Pickup, Queue, Badmail and Drop that were asked for",
        ));
    }
    let Listing { mut files, mut passed_over } = listing;
    files.sort_by(|a, b| (a.area, &a.name).cmp(&(b.area, &b.name)));
    passed_over.sort_by(|a, b| a.file.cmp(&b.file));
    Ok((files, passed_over))
}

/// What was found so far.
#[derive(Default)]
struct Listing {
    files: Vec<Found>,
    passed_over: Vec<Named>,
}

impl Listing {
    /// What lies in an area: its files are taken, and what is in directories below it is passed over.
    fn area(&mut self, area: Area, directory: &Path, place: &str) -> io::Result<()> {
        for (name, entry) in entries(directory)? {
            let (path, name) = (entry.path(), format!("{place}/{name}"));
            let kind = entry.file_type()?;
            if kind.is_file() {
                self.make_room()?;
                self.files.push(Found { area, path, name });
            } else if kind.is_dir() {
                self.beside(&path, &name, "in a directory below that of the mail")?;
            } else {
                self.pass_over(&entry, name, "")?;
            }
        }
        Ok(())
    }

    /// A directory of which nothing is taken: its files are named, and itself when it is empty.
    fn beside(&mut self, directory: &Path, place: &str, why: &str) -> io::Result<()> {
        let mut open = vec![(directory.to_owned(), place.to_owned())];
        while let Some((directory, place)) = open.pop() {
            let all = match entries(&directory) {
                Ok(all) if all.is_empty() => {
                    self.name(place, format!("{why}; it is empty"))?;
                    continue;
                }
                Ok(all) => all,
                Err(error) => {
                    self.name(place, format!("{why}; it cannot be read: {error}"))?;
                    continue;
                }
            };
            for (name, entry) in all {
                let name = format!("{place}/{name}");
                match entry.file_type()?.is_dir() {
                    true => open.push((entry.path(), name)),
                    false => self.pass_over(&entry, name, why)?,
                }
            }
        }
        Ok(())
    }

    fn pass_over(&mut self, entry: &fs::DirEntry, name: String, why: &str) -> io::Result<()> {
        let kind = entry.file_type()?;
        let why = match (kind.is_symlink(), kind.is_file()) {
            (true, _) => "a link; links are not followed",
            (false, false) => "no plain file",
            (false, true) => why,
        };
        self.name(name, why.to_owned())
    }

    fn name(&mut self, file: String, why: String) -> io::Result<()> {
        self.make_room()?;
        self.passed_over.push(Named { file, why });
        Ok(())
    }

    fn make_room(&self) -> io::Result<()> {
        match self.files.len() + self.passed_over.len() < MOST_FILES {
            true => Ok(()),
            false => Err(io::Error::other(format!("there are more than {MOST_FILES} files in it"))),
        }
    }
}

/// What is in a directory, by name.
fn entries(path: &Path) -> io::Result<Vec<(String, fs::DirEntry)>> {
    let named = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name().to_string_lossy().into_owned(), entry))
    };
    let mut found = fs::read_dir(path)?.take(MOST_FILES + 1).map(named).collect::<io::Result<Vec<_>>>()?;
    found.sort_by(|a, b| a.0.cmp(&b.0));
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
            ("Route/deep/f", "x"),
            ("vsi 1/vsi 2/Queue/g.EML", "x"),
            ("Drop/below/h.eml", "x"),
            ("stray.eml", "x"),
            ("vsi 2/stray.txt", "x"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir(root.path().join("Empty")).unwrap();
        std::os::unix::fs::symlink("/etc", root.path().join("Pickup")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("Drop/l.eml")).unwrap();
        let (files, passed_over) = list(root.path(), &AREAS).unwrap();
        let names: Vec<_> = files.iter().map(|found| found.name.as_str()).collect();
        let expected =
            ["vsi 2/PICKUP/b.txt", "vsi 1/Queue/NTFS_1.EML", "vsi 1/Queue/a.LTR", "Badmail/d.BAD", "Drop/c.eml"];
        assert_eq!(names, expected);
        let not_taken: Vec<_> = passed_over.iter().map(|named| named.file.as_str()).collect();
        let expected = [
            "Drop/below/h.eml",
            "Drop/l.eml",
            "Empty",
            "Pickup",
            "Route/deep/f",
            "SortTemp/e",
            "stray.eml",
            "vsi 1/vsi 2/Queue/g.EML",
            "vsi 2/stray.txt",
        ];
        assert_eq!(not_taken, expected, "{passed_over:?}");
        let kinds: Vec<_> = files.iter().map(|found| kind(found).ok()).collect();
        assert_eq!(kinds, [Some(Kind::Mail), Some(Kind::Mail), None, Some(Kind::Bad), Some(Kind::Mail)]);
        let (drop, others) = list(root.path(), &[Area::Drop]).unwrap();
        assert_eq!((drop.len(), others.len()), (1, 12), "{others:?}");
        assert!(list(&root.path().join("SortTemp"), &AREAS).is_err());
    }
}
