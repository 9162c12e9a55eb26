//! What operators are alerted to: the one table of causes. Names, severities and times are those of the chart's alert rules
//! (`helm/bridgehead/files/alerts.yaml`), names also those of the runbook's entries; a test holds them together. What the
//! appliance cannot tell of itself (`BridgeheadDown`) is not among them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A cause of an alert. v1 may add names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum AlertCause {
    /// A virtual server does not listen on all its bindings.
    BridgeheadNotListening,
    /// The store cannot be written.
    BridgeheadStoreCannotWrite,
    /// Damaged records were set aside.
    BridgeheadStoreDamaged,
    /// Free space on the disk is below the reserve.
    BridgeheadDiskFull,
    /// Free space on the disk is below four times the reserve.
    BridgeheadDiskNearlyFull,
    /// New mail is refused: too much is queued, or too little memory left.
    BridgeheadOverloaded,
    /// Mail has been waiting for long.
    BridgeheadOldestMessage,
    /// More than half of the attempts are put off.
    BridgeheadDeferralRatio,
    /// Mail waits, and nothing is delivered.
    BridgeheadNothingDelivered,
    /// A certificate expires soon.
    BridgeheadCertificateExpires,
    /// What a certificate says now is not in force.
    BridgeheadCertificateFault,
    /// What the watched directory says is not in force.
    BridgeheadConfigurationRejected,
    /// An operator's drain goes on and on.
    BridgeheadDraining,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum AlertSeverity {
    /// Mail is refused or stands still.
    Critical,
    /// It will be so, or somebody should look.
    Warning,
}

impl AlertSeverity {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            AlertSeverity::Critical => "critical",
            AlertSeverity::Warning => "warning",
        }
    }
}

/// What is known of a cause before it is there.
struct Entry {
    name: &'static str,
    severity: AlertSeverity,
    /// Seconds for which it must be so.
    holds: u64,
    /// What it means for mail.
    meaning: &'static str,
}

impl AlertCause {
    /// All of them, in the order of the runbook.
    pub const ALL: [AlertCause; 13] = [
        AlertCause::BridgeheadNotListening,
        AlertCause::BridgeheadStoreCannotWrite,
        AlertCause::BridgeheadStoreDamaged,
        AlertCause::BridgeheadDiskFull,
        AlertCause::BridgeheadDiskNearlyFull,
        AlertCause::BridgeheadOverloaded,
        AlertCause::BridgeheadOldestMessage,
        AlertCause::BridgeheadDeferralRatio,
        AlertCause::BridgeheadNothingDelivered,
        AlertCause::BridgeheadCertificateExpires,
        AlertCause::BridgeheadCertificateFault,
        AlertCause::BridgeheadConfigurationRejected,
        AlertCause::BridgeheadDraining,
    ];

    fn entry(self) -> Entry {
        use AlertSeverity::{Critical, Warning};
        let (name, severity, holds, meaning) = match self {
            AlertCause::BridgeheadNotListening => (
                "BridgeheadNotListening",
                Critical,
                120,
                "A port is taken by somebody else, or an address is not the machine's. The other virtual servers serve.",
            ),
            AlertCause::BridgeheadStoreCannotWrite => (
                "BridgeheadStoreCannotWrite",
                Critical,
                60,
                "New mail is refused for now (451, 452). A write or a sync failed; nothing that was acknowledged is lost.",
            ),
            AlertCause::BridgeheadStoreDamaged => (
                "BridgeheadStoreDamaged",
                Critical,
                0,
                "They were set aside when they were read. Each may have been a message.",
            ),
            AlertCause::BridgeheadDiskFull => (
                "BridgeheadDiskFull",
                Critical,
                60,
                "New mail is refused for now (452), what is queued goes on. It ends by itself when there is room.",
            ),
            AlertCause::BridgeheadDiskNearlyFull => (
                "BridgeheadDiskNearlyFull",
                Warning,
                600,
                "Less than four times of what new mail must leave free (BRIDGEHEAD_RESERVE). Below that mail is refused.",
            ),
            AlertCause::BridgeheadOverloaded => (
                "BridgeheadOverloaded",
                Critical,
                120,
                "Clients hear 452 and come again. It ends by itself a tenth below the limit (settings.overload).",
            ),
            AlertCause::BridgeheadOldestMessage => (
                "BridgeheadOldestMessage",
                Warning,
                300,
                "It is tried again and again. Its sender is told after 12 hours and has it back after 2 days, unless set otherwise.",
            ),
            AlertCause::BridgeheadDeferralRatio => (
                "BridgeheadDeferralRatio",
                Warning,
                600,
                "More than half of what was tried in half an hour was put off by the next hop, or could not reach it.",
            ),
            AlertCause::BridgeheadNothingDelivered => (
                "BridgeheadNothingDelivered",
                Critical,
                1_800,
                "Mail has waited for an hour, and not one recipient was delivered or relayed.",
            ),
            AlertCause::BridgeheadCertificateExpires => {
                ("BridgeheadCertificateExpires", Warning, 600, "Clients that check it will not send when it has.")
            }
            AlertCause::BridgeheadCertificateFault => (
                "BridgeheadCertificateFault",
                Warning,
                300,
                "Chain and key do not fit, or cannot be read. The pair that was there before is still in use, if there was one.",
            ),
            AlertCause::BridgeheadConfigurationRejected => (
                "BridgeheadConfigurationRejected",
                Warning,
                120,
                "They hold an error; what was in force before is. A new appliance opens no SMTP port until they are right.",
            ),
            AlertCause::BridgeheadDraining => {
                ("BridgeheadDraining", Warning, 3_600, "Somebody asked it to take no new mail, and may have forgotten.")
            }
        };
        Entry { name, severity, holds, meaning }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// How bad it is.
    pub fn severity(self) -> AlertSeverity {
        self.entry().severity
    }

    /// For how long it must be so before anybody is told.
    pub fn holds(self) -> Duration {
        Duration::from_secs(self.entry().holds)
    }

    /// What it means for mail.
    pub fn meaning(self) -> &'static str {
        self.entry().meaning
    }
}

impl fmt::Display for AlertCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn file(path: &str) -> String {
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    }

    #[test]
    fn the_table_says_what_the_rules_of_the_chart_and_the_runbook_say() {
        let rules: Value = serde_saphyr::from_str(&file("helm/bridgehead/files/alerts.yaml")).unwrap();
        let rules = rules["groups"][0]["rules"].as_array().unwrap();
        let of_chart: Vec<Value> = rules.iter().filter(|rule| rule["alert"] != "BridgeheadDown").cloned().collect();
        let seconds = |text: &Value| match text.as_str() {
            Some(text) => text.parse::<crate::model::duration::Duration>().unwrap().std(),
            None => Duration::ZERO,
        };
        for (cause, rule) in AlertCause::ALL.iter().zip(&of_chart) {
            assert_eq!(rule["alert"], cause.name());
            assert_eq!(rule["labels"]["severity"], cause.severity().word(), "{cause}");
            assert_eq!(seconds(&rule["for"]), cause.holds(), "{cause}");
            assert_eq!(serde_json::to_value(cause).unwrap(), json!(cause.name()));
            assert!(file("README.md").contains(&format!("\n#### {cause}\n")), "{cause} is not in the runbook");
        }
        assert_eq!(of_chart.len(), AlertCause::ALL.len());
    }
}
