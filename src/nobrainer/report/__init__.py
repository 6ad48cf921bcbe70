"""Reports that people look at: one page a scan, an evaluation or a cohort."""

from nobrainer.report.pages import write_case, write_cohort, write_evaluation

__all__ = ["write_case", "write_cohort", "write_evaluation"]
