//! `doctor`: looks at a data directory that no process has open. Exit status: 0 well; 1 something should not be so; 2 it could not
//! be looked at.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::output::{Form, plain, print, print_value, say};
use crate::store::embedded::{self, Diagnosis, Finding, OpenError, Severity};

/// Status when it could not be looked at.
const COULD_NOT: u8 = 2;

/// `bridgehead doctor`
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// The data directory.
    #[arg(long, env = "BRIDGEHEAD_DATA_DIR", default_value = "./data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Repair what can be repaired without losing anything; what is in the way is set aside, never deleted.
    #[arg(long)]
    repair: bool,
    /// In which form.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

impl Doctor {
    /// Does it. What goes wrong is printed.
    pub fn run(self) -> ExitCode {
        let looked = embedded::examine(&self.data_dir).and_then(|found| match self.repair {
            false => Ok((found, Vec::new(), None)),
            true => {
                let done = embedded::repair(&self.data_dir, &found)?;
                Ok((found, done, Some(embedded::examine(&self.data_dir)?)))
            }
        });
        let (found, done, after) = match looked {
            Ok(looked) => looked,
            Err(error) => return could_not(&error),
        };
        let printed = match self.output {
            Form::Json | Form::Yaml => {
                let value = json!({"found": found, "repaired": done, "remains": after});
                print_value(&value, self.output)
            }
            _ => tell(&found, &done, after.as_ref()),
        };
        if let Err(error) = printed {
            say(&format!("bridgehead: {error:#}"));
            return ExitCode::from(COULD_NOT);
        }
        ExitCode::from(u8::from(!after.as_ref().unwrap_or(&found).is_well()))
    }
}

/// Looks at what was restored, and says what is wrong.
///
/// # Errors
/// When it cannot be looked at.
pub fn tell_after_restore(dir: &Path) -> anyhow::Result<()> {
    let diagnosis = embedded::examine(dir)?;
    let worth = diagnosis.findings.iter().filter(|finding| finding.severity != Severity::Notice);
    let lines: Vec<String> = worth.map(line).collect();
    if !lines.is_empty() {
        say("the store was damaged when it was copied:");
        lines.iter().for_each(|line| say(line));
    }
    Ok(())
}

fn could_not(error: &OpenError) -> ExitCode {
    let hint = match error {
        OpenError::InUse(_) => "; stop the appliance first, or restore a backup of it elsewhere and look at that",
        _ => "",
    };
    say(&format!("bridgehead: it could not be looked at: {error}{hint}"));
    ExitCode::from(COULD_NOT)
}

fn tell(found: &Diagnosis, done: &[String], after: Option<&Diagnosis>) -> anyhow::Result<()> {
    table(found)?;
    for what in done {
        print(&format!("repaired: {}\n", plain(what)))?;
    }
    if let Some(after) = after.filter(|after| !after.findings.is_empty()) {
        print("what remains:\n")?;
        table(after)?;
    }
    let state = after.unwrap_or(found);
    let worse =
        state.findings.iter().filter(|finding| finding.severity != Severity::Notice).count() as u64 + state.more;
    let (messages, records) = (state.messages, state.records);
    let verdict = if worse == 0 { "well".to_owned() } else { format!("{worse} things should not be so") };
    print(&format!("{verdict}: {messages} messages in the queue, {records} records read and whole\n"))
}

fn table(diagnosis: &Diagnosis) -> anyhow::Result<()> {
    diagnosis.findings.iter().try_for_each(|finding| print(&format!("{}\n", plain(&line(finding)))))?;
    if diagnosis.more > 0 { print(&format!("and {} more\n", diagnosis.more)) } else { Ok(()) }
}

fn line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Notice => "notice",
    };
    let at = finding.offset.map(|offset| format!(" at {offset}")).unwrap_or_default();
    format!("{severity}: {}{at}: {}. To do: {}", finding.file, finding.what, finding.advice)
}
