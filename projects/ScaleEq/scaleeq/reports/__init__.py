"""What people look at: pages, drawings and tables of what the machinery measured. Nothing below imports it.

html is the one shell of all pages, style the one look of all drawings. scales_*, comparison_*: a report each, of
analysis, verdict or tables, drawing and page. pictures: sheets of predictions and maps. data: the check of data sets.
costs: tables of counts and times.
"""
