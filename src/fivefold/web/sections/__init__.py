"""What each section of the report shows, one file a section: the stored data in, values for its template out."""
