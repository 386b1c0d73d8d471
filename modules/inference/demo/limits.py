"""Limits on visitors of the web page: sizes, durations and numbers.

Limits on the number of pixels and on file formats are in `data/images/radiograph.py`.
"""

MAX_UPLOAD_BYTES = 32 * 2**20  # a radiograph at full resolution has 20 MB
MAX_REQUEST_BYTES = MAX_UPLOAD_BYTES + 2**16  # a file and its form fields
MAX_EVENT_BYTES = 2**18  # an event, such as edits of all regions
MAX_INDICATION_LENGTH = 1000  # characters; models read the first words
MAX_UPLOADS_BYTES = 8 * MAX_REQUEST_BYTES  # all uploads in memory together
UPLOAD_SECONDS = 60  # until an upload without a report is removed

MAX_SECONDS_TO_SEND_HEADERS = 30
MAX_SECONDS_TO_SEND = 60  # to receive the rest of a request
MAX_SECONDS_TO_REPORT = 30  # to read an image and generate its report
MAX_SECONDS_TO_WAIT = 60  # for the model, once a request is first in the queue
MAX_WAITING_REQUESTS = 16  # further requests are rejected
MAX_CONNECTIONS = 256

# Pages that are kept: each has the displayed images (up to 2 MiB), the pixels that the model sees, and predictions. A
# page that does not read its results has at most this number of unread messages, about three per result.
MAX_PAGES = 64
MAX_UNREAD_MESSAGES = 9
MAX_PAGE_BYTES = 12 * 2**20  # at most; all pages together: 768 MiB
PAGE_SECONDS = 3600  # until an unused study is removed, even if its page is still open
