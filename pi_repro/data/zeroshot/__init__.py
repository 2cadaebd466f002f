"""Zero-shot suites of sets that others publish as webdatasets: fetched, checked and indexed where they lie."""
