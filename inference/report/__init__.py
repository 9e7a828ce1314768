"""The page of an annotated archive: `page` chooses and draws, `report.html.j2` is what it fills."""
