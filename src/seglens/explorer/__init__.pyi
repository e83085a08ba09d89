from .serving import explore as explore
